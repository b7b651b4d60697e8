//! Ends processes of a failed generation that have left its process tree, as a server does that goes into the background. They may listen, and
//! nothing follows them. The control group of the start tells them.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;

use crate::process::Handle;
use crate::reload::attempt::Attempt;
use crate::server::RetireRequest;
use crate::supervision::Generation;

/// How long such a process may take to end after it was asked.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the group is read until it has no stray. A process that forks while it is killed leaves a child.
const ROUNDS: usize = 100;

impl Attempt<'_> {
    /// Asks the strays of the generation that failed to end, and kills those that do not.
    pub(in crate::reload) async fn end_strays(&mut self) {
        let strays = self.strays();
        if strays.is_empty() {
            return;
        }
        let (server, stop) = (self.supervisor.server(), self.supervisor.server().stop());
        for process in &strays {
            log::warn!(
                "process {} of the generation that failed has left its process tree: it is asked to end",
                process.pid()
            );
            server.retire(&RetireRequest { process: process.clone(), sockets: Vec::new(), stop: stop.clone() });
        }
        let pids = strays.iter().map(|process| process.pid().to_string()).collect::<Vec<_>>().join(", ");
        let heartbeat = self.supervisor.heartbeat();
        let ended = join_all(strays.iter().map(Handle::ended));
        let ends = heartbeat.during(tokio::time::timeout(END_TIMEOUT, ended)).await.is_ok();
        let killed = self.kill_strays().await;
        let how = if ends && !killed { "ended when they were asked to" } else { "were killed" };
        self.recorder.note(format!(
            "processes of the generation that failed had left its process tree, and {how} (a server has to stay in the foreground): {pids}"
        ));
    }

    async fn kill_strays(&mut self) -> bool {
        let heartbeat = self.supervisor.heartbeat();
        for round in 0..ROUNDS {
            let strays = self.strays();
            if strays.is_empty() {
                return round > 0;
            }
            strays.iter().for_each(|process| process.signal(Signal::KILL));
            // A process in an uninterruptible wait ends later.
            let _ =
                heartbeat.during(tokio::time::timeout(END_TIMEOUT, join_all(strays.iter().map(Handle::ended)))).await;
        }
        true
    }

    /// The processes of the group that belong to no generation, and those that outlived their root and are not asked to end yet.
    fn strays(&self) -> Vec<Handle> {
        let Some(started) = &self.started else { return Vec::new() };
        let generations = self.supervisor.generations();
        let draining = generations.draining().iter().filter(|generation| !generation.awaits_retirement);
        let followed: HashSet<u32> =
            generations.serving().into_iter().chain(draining).flat_map(Generation::tree).collect();
        let left = started.group.processes().into_iter().filter(|(pid, _)| !followed.contains(pid));
        left.filter_map(|(pid, start_time)| Handle::adopt(pid, start_time)).collect()
    }
}
