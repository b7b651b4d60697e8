//! A hold in force, as its owner has it: a handle on the thread that operates the gate.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use super::error::HoldError;
use super::health::HoldHealth;
use super::request::{EndReason, HoldOutcome, HoldRequest, HoldStarted};
use super::worker::HoldWorker;

/// A hold for which everything is in place and guarded. No SYN is parked before it is [armed](Self::arm). Dropped, all of it is removed.
#[derive(Debug)]
pub struct PreparedHold {
    /// Has the worker arm the gate. Closed, it has the worker remove it.
    orders: Option<mpsc::Sender<()>>,
    armed: mpsc::Receiver<Result<(HoldStarted, Arc<HoldHealth>), HoldError>>,
    stop: OwnedFd,
    old_leaving: OwnedFd,
    thread: Option<JoinHandle<HoldOutcome>>,
}

impl PreparedHold {
    /// Prepares a hold in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where nothing can be held. Nothing is left in the kernel then.
    pub fn new(request: HoldRequest) -> Result<PreparedHold, HoldError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        let stop_of_worker = stop.try_clone()?;
        let old_leaving = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let old_leaving_of_worker = old_leaving.try_clone()?;
        let (prepared, is_prepared) = mpsc::channel();
        let (orders, orders_of_worker) = mpsc::channel();
        let (sender, armed) = mpsc::channel();
        let thread = std::thread::Builder::new().name("holder".into()).spawn(move || {
            let worker = HoldWorker::prepare(request, old_leaving_of_worker);
            let (mut worker, error) = worker.map_or_else(|error| (None, Some(error)), |worker| (Some(worker), None));
            let _ = prepared.send(error);
            let ordered = orders_of_worker.recv();
            let Some(worker) = worker.take() else { return HoldOutcome::failed(Vec::new()) };
            if ordered.is_err() {
                return worker.give_up();
            }
            match worker.arm() {
                Ok((worker, started)) => {
                    let _ = sender.send(Ok((started, worker.health())));
                    worker.run(&stop_of_worker)
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                    HoldOutcome::failed(Vec::new())
                }
            }
        })?;
        let hold = PreparedHold { orders: Some(orders), armed, stop, old_leaving, thread: Some(thread) };
        match is_prepared.recv() {
            Ok(None) => Ok(hold),
            Ok(Some(error)) => Err(error),
            Err(_) => Err(io::Error::other("the holder's thread ended").into()),
        }
    }

    /// Holds SYNs, from the moment this returns.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn arm(mut self) -> Result<Hold, HoldError> {
        let ended = || HoldError::from(io::Error::other("the holder's thread ended"));
        self.orders.as_ref().ok_or_else(ended)?.send(()).map_err(|_| ended())?;
        let (started, health) = self.armed.recv().map_err(|_| ended())??;
        let (stop, old_leaving) = (self.stop.try_clone()?, self.old_leaving.try_clone()?);
        Ok(Hold { started, health, stop, old_leaving, thread: self.thread.take() })
    }
}

impl Drop for PreparedHold {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
            let _ = thread.join();
        }
    }
}

/// A hold in force. It is released when this is dropped.
#[derive(Debug)]
pub struct Hold {
    started: HoldStarted,
    health: Arc<HoldHealth>,
    /// An eventfd: readable once the worker is to release.
    stop: OwnedFd,
    /// An eventfd: readable while the old server closes its listeners.
    old_leaving: OwnedFd,
    thread: Option<JoinHandle<HoldOutcome>>,
}

impl Hold {
    /// Starts a hold in the network namespace of the calling thread. SYNs are held from the moment this returns.
    ///
    /// # Errors
    /// Where nothing can be held. Nothing is left in the kernel then.
    pub fn begin(request: HoldRequest) -> Result<Hold, HoldError> {
        PreparedHold::new(request)?.arm()
    }

    /// How it began.
    pub fn started(&self) -> &HoldStarted {
        &self.started
    }

    /// Call this before the old server is told to close its listeners. If this process dies from then on, the guard does not count
    /// them: it holds until other listeners are there, or until the hold's longest time is over.
    pub fn old_leaves(&self) {
        if let Err(error) = rustix::io::write(&self.old_leaving, &1_u64.to_ne_bytes()) {
            log::error!("the guard of a hold does not know that the old server leaves: {error}");
        }
    }

    /// Undoes [`old_leaves`](Self::old_leaves): the old server has not closed its listeners after all.
    pub fn old_stays(&self) {
        let _ = rustix::io::read(&self.old_leaving, &mut [0_u8; 8]);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What stands against a proof by now. That the hold has ended by itself is a doubt too.
    pub fn doubt(&self) -> Option<String> {
        let ended = || self.has_ended().then_some(EndReason::Failed).and_then(EndReason::doubt).map(Into::into);
        self.health.doubt().or_else(ended)
    }

    /// Releases. Returns when everything is delivered and removed.
    pub fn release(mut self) -> HoldOutcome {
        self.end().unwrap_or_else(|| HoldOutcome::failed(vec!["the thread that held SYNs has panicked".into()]))
    }

    fn end(&mut self) -> Option<HoldOutcome> {
        let thread = self.thread.take()?;
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        thread.join().ok()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end();
    }
}
