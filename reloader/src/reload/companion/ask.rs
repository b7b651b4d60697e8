//! The master is asked to reload, and the new worker awaited.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::haproxy::master::{self, Answer, Found, Image};
use crate::haproxy::version::Version;
use crate::process::{self, Handle};
use crate::receipt::Failure;
use crate::supervision::Supervisor;

/// No event tells that a worker of somebody else's begins to listen.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// While a worker reads its configuration it is asked less often: another one answers meanwhile.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// A master that only waits for so long has no worker to come: right after a reload it executes itself once more, and answers the
/// next signal after that.
const STILL: Duration = Duration::from_secs(1);
/// How often the daemon does what is due meanwhile.
const PULSE: Duration = Duration::from_secs(1);

/// Whether the master itself tells of a worker that fails: otherwise HAProxy checks its configuration before it is asked.
pub(super) fn tells_failures(supervisor: &Supervisor) -> bool {
    let asked = supervisor.companion.as_ref().is_some_and(|companion| companion.haproxy.master_cli.is_some());
    let runs = supervisor.companion.as_ref().and_then(|companion| companion.version);
    asked && runs.is_some_and(Version::answers_reload)
}

/// Asks, and waits until another worker serves, no longer than `start-timeout`.
pub(super) async fn reload(supervisor: &mut Supervisor, sockets: &[PathBuf]) -> Result<Found, Failure> {
    let asking = Asking::new(supervisor, sockets)?;
    let limit = supervisor.config.reload.start_timeout;
    let mut stopping = supervisor.stopping.clone();
    let (board, name) = (supervisor.board.clone(), supervisor.name.clone());
    let beats = async {
        let mut beat = tokio::time::interval(PULSE);
        loop {
            beat.tick().await;
            // And no more: custody must not follow a worker that closes because it was asked to.
            board.heartbeat(&name);
        }
    };
    let old = supervisor.serving.as_ref().map(|serving| serving.process.clone());
    let custody_max = supervisor.custody_max();
    let unserved = async {
        match &old {
            Some(old) => drop(old.ended().await),
            None => std::future::pending().await,
        }
        tokio::time::sleep(custody_max).await;
        supervisor.drop_custody();
        std::future::pending().await
    };
    tokio::select! {
        found = asking.run() => found,
        never = unserved => never,
        () = tokio::time::sleep(limit) => Err(Failure::new(format!(
            "the master (process {}) did not bring up a new worker within {}: should one come yet, it is followed; look at the log of \
             HAProxy's unit, or raise start-timeout if it needs longer",
            asking.master.pid(),
            humantime::format_duration(limit)
        ))),
        _ = stopping.wait_for(|stopping| *stopping) => Err(Failure::new("the daemon was asked to stop")),
        () = beats => unreachable!("it beats without end"),
    }
}

struct Asking {
    master: Handle,
    /// Workers from before.
    known: HashSet<u32>,
    image: Image,
    cli: Option<PathBuf>,
    binary: PathBuf,
    sockets: Vec<PathBuf>,
}

impl Asking {
    fn new(supervisor: &Supervisor, sockets: &[PathBuf]) -> Result<Asking, Failure> {
        let companion = supervisor.companion.as_ref();
        let Some((companion, master)) = companion.and_then(|found| Some((found, found.master.clone()?))) else {
            return Err(Failure::new("internal error: a worker without a master"));
        };
        if master.try_ended().is_some() {
            return Err(Failure::new(format!("HAProxy's master (process {}) has ended", master.pid())));
        }
        let mut all = sockets.to_vec();
        all.extend(companion.sockets.iter().filter(|socket| !sockets.contains(socket)).cloned());
        let known = master::workers(master.pid()).into_iter().collect();
        let image = Image::from_master(master.pid());
        let (cli, binary) = (companion.haproxy.master_cli.clone(), companion.haproxy.binary.clone());
        Ok(Asking { master, known, image, cli, binary, sockets: all })
    }

    async fn run(&self) -> Result<Found, Failure> {
        match &self.cli {
            None => self.signal()?,
            Some(path) => match master::reload(path).await {
                Ok(Answer::Done | Answer::Nothing) => {}
                Ok(Answer::Refused(said)) => {
                    return Err(Failure {
                        server_log: said.lines().map(str::to_owned).collect(),
                        ..Failure::new(format!(
                            "haproxy.master-cli: {} does not take `reload`; it must be the path behind the `-S` of HAProxy's unit, with \
                             level admin",
                            path.display()
                        ))
                    });
                }
                Ok(Answer::Failed(server_log)) => {
                    let reason = "HAProxy's master could not bring up a new worker";
                    return Err(Failure { server_log, ..Failure::new(reason) });
                }
                Err(error) => {
                    return Err(Failure::new(format!(
                        "haproxy.master-cli: {} cannot be asked: {error}; it must be the path behind the `-S` of HAProxy's unit",
                        path.display()
                    )));
                }
            },
        }
        self.await_worker().await
    }

    /// To a process that does not expect it SIGUSR2 is the end. A master that is executing itself has it blocked.
    fn signal(&self) -> Result<(), Failure> {
        let pid = self.master.pid();
        if !process::handles_signal(pid, Signal::USR2) {
            return Err(Failure::new(format!(
                "process {pid} does not expect SIGUSR2, which would end it: it is no master of HAProxy, and nothing was done"
            )));
        }
        self.master.signal(Signal::USR2);
        Ok(())
    }

    async fn await_worker(&self) -> Result<Found, Failure> {
        let mut seen: HashSet<u32> = HashSet::new();
        let mut others: HashSet<u32> = HashSet::new();
        let (mut last, mut since) = (self.image, Instant::now());
        loop {
            if self.master.try_ended().is_some() {
                return Err(Failure::new(format!("HAProxy's master (process {}) has ended", self.master.pid())));
            }
            // Read before the workers: one that a waiting master has forked is among them then.
            let image = Image::from_master(self.master.pid());
            if image != last {
                (last, since) = (image, Instant::now());
            }
            let mut fresh = self.fresh();
            // Until it takes the signal, it is busy with somebody else's reload.
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
                return Err(Failure::new(reason));
            }
            tokio::time::sleep(if fresh.is_empty() { POLL_INTERVAL } else { ASK_INTERVAL }).await;
        }
    }

    fn fresh(&self) -> Vec<u32> {
        master::workers(self.master.pid()).into_iter().filter(|pid| !self.known.contains(pid)).collect()
    }
}

/// Why no worker is to be expected any more. `seen` are those that came.
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
