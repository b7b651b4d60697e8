//! Waits for the answers of an old generation that dies of its stop signal, even in the middle of a reply. Its clients are answered first: new
//! connections go to the new generation already.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{self, Endpoints, SockDiagError};
use crate::process::{ProcessScope, run_blocking, sockets_of};
use crate::reload::timing::IN_FLIGHT;
use crate::supervision::steering::ClosingListeners;

/// The pauses between looks, each of which reads the kernel's connections and the descriptor tables of the old generation. A pause is a tenth of the
/// time that has passed.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A server that takes nothing from its queue for this time while it owes nothing else is stalled.
const STALLED_AFTER: Duration = Duration::from_millis(500);

/// What the old generation owes its clients at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owed {
    /// Connections in its accept queues.
    queued: u64,
    /// Connections that it has accepted and not answered.
    accepted: HashSet<Endpoints>,
}

/// How long the old generation has owed the same.
#[derive(Debug)]
struct Watch {
    owed: Owed,
    since: Instant,
    /// What is queued on a listener that closes goes to the new one.
    migrates: bool,
}

impl Watch {
    /// Whether there is anything left to be waited for. Pure.
    fn is_over(&mut self, owed: Owed, now: Instant) -> bool {
        if owed != self.owed {
            (self.owed, self.since) = (owed, now);
        }
        let is_stalled = self.migrates && now.saturating_duration_since(self.since) >= STALLED_AFTER;
        self.owed.accepted.is_empty() && (self.owed.queued == 0 || is_stalled)
    }
}

/// Waits until the process tree of `root` owes no answer on the ports of `old`, and has accepted what is queued. What a stalled one has queued is not
/// waited for where the kernel `migrates` it. At most for `timeout`: a client that was promised an answer for later (a long poll) is not waited for.
/// Returns a sentence where the wait was given up.
pub(super) async fn until_answered(
    old: &Arc<ClosingListeners>,
    root: u32,
    migrates: bool,
    timeout: Duration,
) -> Option<String> {
    tokio::time::sleep(IN_FLIGHT).await;
    let began = Instant::now();
    let mut watch = Watch { owed: Owed::default(), since: began, migrates };
    loop {
        let old = old.clone();
        let owed = match run_blocking(move || owed(&old, root)).await {
            Ok(owed) => owed,
            Err(error) => return Some(format!("it was not waited for the answers of the old generation: {error}")),
        };
        if watch.is_over(owed, Instant::now()) {
            return None;
        }
        let left = timeout.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Some(given_up(&watch.owed, timeout));
        }
        let pause = (began.elapsed() / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        tokio::time::sleep(pause.min(left)).await;
    }
}

fn given_up(owed: &Owed, timeout: Duration) -> String {
    format!(
        "the old generation was asked to stop {} after the new one was ready, although it owed an answer on {} connections and had {} in its queue \
         (drain-timeout)",
        humantime::format_duration(timeout),
        owed.accepted.len(),
        owed.queued
    )
}

/// A connection goes from the queue to a process: read in this order, each is seen.
fn owed(old: &ClosingListeners, root: u32) -> Result<Owed, SockDiagError> {
    let mut owed = Owed { queued: old.queued()?, accepted: HashSet::new() };
    let open = sockets_of(&ProcessScope::All.processes(root));
    for port in old.ports() {
        let unanswered = sock_diag::unanswered(port)?.into_iter();
        let accepted = unanswered.filter(|connection| open.contains_key(&connection.inode));
        owed.accepted.extend(accepted.map(|connection| connection.endpoints()));
    }
    Ok(owed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(queued: u64, accepted: u16) -> Owed {
        let address = |port: u16| ([127, 0, 0, 1], port).into();
        Owed { queued, accepted: (0..accepted).map(|port| (address(80), address(port))).collect() }
    }

    #[test]
    fn queue_of_a_stalled_server_is_waited_for_only_where_it_does_not_move_over() {
        let began = Instant::now();
        for migrates in [true, false] {
            let mut watch = Watch { owed: Owed::default(), since: began, migrates };
            let mut is_over = |owed, half_seconds| watch.is_over(owed, began + STALLED_AFTER * half_seconds);
            assert!(!is_over(owed(3, 0), 1), "it has just been seen");
            assert!(!is_over(owed(2, 0), 2), "it accepts");
            assert_eq!(is_over(owed(2, 0), 3), migrates);
            assert!(!is_over(owed(2, 1), 9), "it owes an answer");
            assert!(!is_over(owed(2, 1), 99), "it still owes it");
            assert!(is_over(owed(0, 0), 99));
        }
    }
}
