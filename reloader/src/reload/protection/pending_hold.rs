//! Puts a hold in place beside the loop. Nothing is parked before it is armed.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Strategy;
use crate::gate::hold::{Backend, Exception, Hold, HoldError, HoldRequest, PreparedHold, Target};
use crate::kernel::{devices, sock_diag};
use crate::model::listener::Listener;
use crate::process::run_blocking;
use crate::supervision::Supervisor;

/// [`Hold::begin`], beside the loop.
pub(crate) async fn begin(request: HoldRequest) -> Result<Hold, HoldError> {
    run_blocking(|| Hold::begin(request)).await
}

/// A hold that is being put in place.
pub(crate) struct PendingHold {
    old: Vec<Listener>,
    terms: Terms,
    /// The error is a sentence.
    prepared: Result<JoinHandle<Result<PreparedHold, HoldError>>, String>,
}

/// What the one who drains needs to know of a hold.
#[derive(Default)]
pub(super) struct Terms {
    /// The addresses that it leaves to other servers.
    pub(super) exceptions: Vec<Exception>,
    /// How long it lasts at most.
    pub(super) max: Duration,
}

impl PendingHold {
    /// Begins to put a hold for the `old` listeners in place. `ours` are all sockets of both generations.
    pub(crate) fn begin(supervisor: &Supervisor, old: Vec<Listener>, ours: &HashSet<u64>) -> PendingHold {
        match hold_request(supervisor, &old, ours) {
            Ok(request) => {
                let terms = Terms { exceptions: request.exceptions.clone(), max: request.max };
                let prepared = tokio::task::spawn_blocking(|| PreparedHold::new(request));
                PendingHold { old, terms, prepared: Ok(prepared) }
            }
            Err(error) => PendingHold { old, terms: Terms::default(), prepared: Err(error) },
        }
    }

    /// The listeners that it is for.
    pub(crate) fn listeners(&self) -> &[Listener] {
        &self.old
    }

    /// Waits until it is in place, and holds SYNs from then on.
    ///
    /// # Errors
    /// A sentence: nothing can hold.
    pub(super) async fn arm(self) -> Result<(Hold, Terms), String> {
        let prepared = self.prepared?.await.map_err(|error| error.to_string())?;
        let prepared = prepared.map_err(|error| error.to_string())?;
        let hold = run_blocking(|| prepared.arm()).await.map_err(|error| error.to_string())?;
        Ok((hold, self.terms))
    }

    /// Removes it again.
    pub(crate) async fn give_up(self) {
        if let Ok(preparing) = self.prepared
            && let Ok(Ok(prepared)) = preparing.await
        {
            run_blocking(|| drop(prepared)).await;
        }
    }
}

fn hold_request(supervisor: &Supervisor, old: &[Listener], ours: &HashSet<u64>) -> Result<HoldRequest, String> {
    let sockets = sock_diag::tcp_listeners().map_err(|error| error.to_string())?;
    let target = |listener: &Listener| {
        let address = listener.endpoint.inet()?;
        let interface = listener.endpoint.interface.as_deref().and_then(devices::index).unwrap_or(0);
        Some(Target { address, v6only: listener.endpoint.v6only, interface })
    };
    let mut targets: Vec<Target> = old.iter().filter_map(target).collect();
    targets.sort_by_key(|target| (target.address, target.v6only, target.interface));
    targets.dedup();
    let on_held_port = |exception: &Exception| {
        let port = exception.address.port();
        targets.iter().any(|target| target.address.ip().is_unspecified() && target.address.port() == port)
    };
    let others = sockets.iter().filter(|found| !ours.contains(&found.inode));
    let exceptions = others.filter_map(Exception::from_listener);
    let config = supervisor.config();
    Ok(HoldRequest {
        exceptions: exceptions.filter(on_held_port).collect(),
        old: old.iter().map(|listener| listener.inode).collect(),
        targets,
        backend: (config.reload.strategy == Strategy::KernelFallback).then_some(Backend::Qdisc),
        capacity: config.hold.capacity,
        max: config.hold.max,
        netns_path: None,
        runtime_dir: config.runtime_dir.clone(),
        program: supervisor.host().program().to_owned(),
        inheritance: supervisor.host().inheritance().clone(),
    })
}
