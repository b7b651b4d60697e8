//! Asks the master to reload, and waits for the new worker.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::haproxy::master::{self, Answer, Found, Image};
use crate::haproxy::version::Version;
use crate::process::{self, Handle};
use crate::receipt::{Failure, ReasonCode};
use crate::supervision::{CustodyEnd, Supervisor};

/// No event tells that a worker of another process begins to listen.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// The interval between questions on the stats sockets while a new worker reads its configuration. It is longer, because another worker has to
/// answer these questions.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// A master that has only waited for this long has no worker to come. Right after a reload it executes itself once more, and answers the next
/// signal after that.
const STILL: Duration = Duration::from_secs(1);

/// Whether the master itself tells of a worker that fails: otherwise HAProxy checks its configuration before it is asked.
pub(super) fn tells_failures(supervisor: &Supervisor) -> bool {
    supervisor.server().companion().is_some_and(|companion| {
        companion.config().master_cli.is_some() && companion.running_version().is_some_and(Version::answers_reload)
    })
}

/// Asks, and waits until another worker serves, no longer than `start-timeout`.
pub(super) async fn reload(supervisor: &mut Supervisor, sockets: &[PathBuf]) -> Result<Found, Failure> {
    let asking = Asking::new(supervisor, sockets)?;
    let limit = supervisor.config().reload.start_timeout;
    let mut stopping = supervisor.stopping();
    // Only the heartbeat runs, not the housekeeping. Custody must not follow a worker that closes its listeners because it was asked to.
    let heartbeat = supervisor.heartbeat();
    let old = supervisor.serving().map(|serving| serving.process.clone());
    let custody_max = supervisor.custody_max();
    let custody_over = async {
        match &old {
            Some(old) => drop(old.ended().await),
            None => std::future::pending().await,
        }
        tokio::time::sleep(custody_max).await;
        supervisor.drop_custody(CustodyEnd::CustodyMax);
        std::future::pending().await
    };
    let answer = async {
        tokio::select! {
            found = asking.run() => found,
            never = custody_over => never,
            () = tokio::time::sleep(limit) => Err(Failure::new(ReasonCode::WorkerTimedOut, format!(
                "the master (process {}) did not bring up a new worker within {}: should one come yet, it is followed; look at the log of \
                 HAProxy's unit, or raise start-timeout if it needs longer",
                asking.master.pid(),
                humantime::format_duration(limit)
            ))),
            _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::daemon_stopping()),
        }
    };
    heartbeat.during(answer).await
}

struct Asking {
    master: Handle,
    /// The workers that the master had before it was asked to reload.
    known: HashSet<u32>,
    image: Image,
    cli: Option<PathBuf>,
    binary: PathBuf,
    sockets: Vec<PathBuf>,
}

impl Asking {
    fn new(supervisor: &Supervisor, sockets: &[PathBuf]) -> Result<Asking, Failure> {
        let companion = supervisor.server().companion();
        let Some((companion, master)) = companion.and_then(|found| Some((found, found.master()?.clone()))) else {
            return Err(Failure::internal("a worker without a master"));
        };
        let asking = Asking {
            known: master::workers(master.pid()).into_iter().collect(),
            image: Image::from_master(master.pid()),
            master,
            cli: companion.config().master_cli.clone(),
            binary: companion.config().binary.clone(),
            sockets: companion.with_known_sockets(sockets.to_vec()),
        };
        asking.refuse_if_master_has_ended()?;
        Ok(asking)
    }

    fn refuse_if_master_has_ended(&self) -> Result<(), Failure> {
        match self.master.try_ended() {
            None => Ok(()),
            Some(_) => {
                let reason = format!("HAProxy's master (process {}) has ended", self.master.pid());
                Err(Failure::new(ReasonCode::MasterGone, reason))
            }
        }
    }

    async fn run(&self) -> Result<Found, Failure> {
        match &self.cli {
            None => self.signal()?,
            Some(path) => self.ask(path).await?,
        }
        self.await_worker().await
    }

    async fn ask(&self, path: &Path) -> Result<(), Failure> {
        match master::reload(path).await {
            Ok(Answer::Done | Answer::Nothing) => Ok(()),
            Ok(Answer::Refused(answer)) => {
                let reason = format!(
                    "haproxy.master-cli: {} does not take `reload`; it must be the path behind the `-S` of HAProxy's unit, with level admin",
                    path.display()
                );
                let server_log = answer.lines().map(str::to_owned).collect();
                Err(Failure { server_log, ..Failure::new(ReasonCode::MasterUnreachable, reason) })
            }
            Ok(Answer::Failed(server_log)) => {
                let reason = "HAProxy's master could not bring up a new worker";
                Err(Failure { server_log, ..Failure::new(ReasonCode::WorkerFailed, reason) })
            }
            Err(error) => {
                let reason = format!(
                    "haproxy.master-cli: {} cannot be asked: {error}; it must be the path behind the `-S` of HAProxy's unit",
                    path.display()
                );
                Err(Failure::new(ReasonCode::MasterUnreachable, reason))
            }
        }
    }

    /// SIGUSR2 ends a process that does not catch it. A master that executes itself again blocks the signal meanwhile.
    fn signal(&self) -> Result<(), Failure> {
        let pid = self.master.pid();
        if !process::handles_signal(pid, Signal::USR2) {
            let reason = format!(
                "process {pid} does not expect SIGUSR2, which would end it: it is not a master of HAProxy, and nothing was done"
            );
            return Err(Failure::new(ReasonCode::MasterGone, reason));
        }
        self.master.signal(Signal::USR2);
        Ok(())
    }

    async fn await_worker(&self) -> Result<Found, Failure> {
        let mut seen: HashSet<u32> = HashSet::new();
        let mut others: HashSet<u32> = HashSet::new();
        let (mut last, mut since) = (self.image, Instant::now());
        loop {
            self.refuse_if_master_has_ended()?;
            // Read before the workers are listed: a master that waits has forked its worker already, so the list includes that worker.
            let image = Image::from_master(self.master.pid());
            if image != last {
                (last, since) = (image, Instant::now());
            }
            let mut fresh = self.fresh();
            // Until it takes the signal, it is busy with a reload that another process asked for.
            if self.cli.is_none() && process::is_pending(self.master.pid(), Signal::USR2) {
                others.extend(&fresh);
            }
            fresh.retain(|pid| !others.contains(pid));
            seen.extend(&fresh);
            if !fresh.is_empty()
                && let Ok(found) = master::find(&self.sockets, &self.binary, |pid| fresh.contains(&pid)).await
            {
                return Ok(found);
            }
            let waits = image.waits && image.is_another(self.image) && since.elapsed() >= STILL;
            if let Some(reason) = is_over(waits, &seen) {
                return Err(Failure::new(ReasonCode::WorkerFailed, reason));
            }
            tokio::time::sleep(if fresh.is_empty() { POLL_INTERVAL } else { ASK_INTERVAL }).await;
        }
    }

    fn fresh(&self) -> Vec<u32> {
        master::workers(self.master.pid()).into_iter().filter(|pid| !self.known.contains(pid)).collect()
    }
}

/// Why no worker will come any more. `seen` are those that came.
fn is_over(waits: bool, seen: &HashSet<u32>) -> Option<String> {
    let log = "look at the log of HAProxy's unit";
    match seen.iter().max() {
        Some(last) if seen.iter().all(|pid| process::start_time(*pid).is_none()) => {
            Some(format!("the new worker (process {last}) ended before it served; {log}"))
        }
        None if waits => Some(format!("HAProxy's master could not bring up a new worker; {log}")),
        _ => None,
    }
}
