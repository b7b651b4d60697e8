//! Delays the end of PID 1, which kills every other process of the container, until the last connection has ended.

use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::event_loop::EventLoop;
use super::timing::HOUSEKEEPING_INTERVAL;
use crate::config::Limit;
use crate::model::listener::Endpoint;
use crate::process::{self, ProcessScope};
use crate::receipt::{Kind, Recorder};
use crate::supervision::{Generation, Notice, open_connections};

impl EventLoop {
    /// Waits until nothing drains any more, and no process has a connection that one of the endpoints `served` accepted. Requests are answered
    /// meanwhile.
    pub(super) async fn drain_all(&mut self, served: &[Endpoint]) {
        let limit = self.supervisor.config().reload.hard_stop_after;
        if !self.supervisor.generations().draining().is_empty() {
            let early = match limit {
                Limit::Never => String::new(),
                Limit::After(_) => format!(", which hard-stop-after = \"{limit}\" may end early"),
            };
            log::info!("as PID 1 the daemon ends with the last connection{early}");
        }
        let began = Instant::now();
        let mut told = false;
        loop {
            while self.supervisor.generations().draining().iter().any(may_end) {
                self.supervisor.publish();
                self.wait_for_the_draining().await;
                self.end_overdue().await;
            }
            if let Some(stays) = self.supervisor.generations().draining().first() {
                let pid = stays.process.pid();
                return log::error!(
                    "process {pid} cannot be told to end, for which CAP_KILL is missing: it is killed with the container"
                );
            }
            let left = connections_left(served);
            if left == 0 {
                return;
            }
            if matches!(limit, Limit::After(limit) if began.elapsed() >= limit) {
                return self.record_cut(left).await;
            }
            if !std::mem::replace(&mut told, true) {
                log::info!(
                    "processes that outlived their generation have connections, of which the last is waited for"
                );
            }
            self.warn_of_the_left(left);
            self.wait_for_the_draining().await;
        }
    }

    /// Waits until a draining generation has ended, or until the next tick.
    async fn wait_for_the_draining(&mut self) {
        let event = {
            let draining = self.supervisor.generations().draining().iter();
            let mut drained: FuturesUnordered<_> = draining.map(|generation| generation.process.ended()).collect();
            tokio::select! {
                Some(_) = drained.next(), if !drained.is_empty() => None,
                () = tokio::time::sleep(HOUSEKEEPING_INTERVAL) => None,
                event = self.events.recv() => event,
            }
        };
        event.into_iter().for_each(|event| self.take(event));
        self.queue.refuse_all();
        self.supervisor.reap_draining().await;
        self.supervisor.tick();
    }

    fn warn_of_the_left(&mut self, left: u64) {
        let warning =
            format!("the daemon ends with the last of {left} connections of processes that outlived their generation");
        self.supervisor.warn(Notice::Ending, warning);
        self.supervisor.publish();
    }

    async fn record_cut(&mut self, left: u64) {
        let mut recorder = Recorder::begin(Some(self.supervisor.name()), Kind::End, Instant::now(), 0, None);
        recorder.receipt().lost.cut = Some(left);
        recorder.note("connections of processes that outlived their generation were cut, as hard-stop-after asks");
        let receipt = recorder.finish(Ok(()));
        self.supervisor.store_receipt(&receipt).await;
    }
}

/// Whether the generation can be asked to end. A generation that cannot be signalled was never asked to end, and would serve for ever. HAProxy's
/// master has no more rights over its workers than the daemon has.
fn may_end(generation: &Generation) -> bool {
    let told = match generation.scope {
        ProcessScope::SameProgram => generation.processes(),
        ProcessScope::All => vec![generation.process.pid()],
    };
    !told.into_iter().any(process::cannot_signal)
}

/// Connections of all processes of the container: a server may answer by processes that outlive its first one. Where the kernel does not say,
/// none are waited for.
fn connections_left(served: &[Endpoint]) -> u64 {
    open_connections(&process::tree(std::process::id()), served).unwrap_or(0)
}
