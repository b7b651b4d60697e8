//! Counts connections that went another way than to a new socket, by the counters of the kernel and of the program.

use crate::gate::steer::{Left, Steer};
use crate::kernel::netstat;
use crate::receipt::{Doubt, ReasonCode};

/// Each counts up; `None` where it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// Connections that found no listener to move to, since the network namespace exists.
    failed_migrations: Option<u64>,
    /// SYN cookies that came back, since the network namespace exists.
    answered_cookies: Option<u64>,
    /// What the program left to the kernel.
    left: Option<Left>,
}

impl Counters {
    /// Reads the counters of the calling thread's network namespace, and those of the program.
    pub(super) fn read(steer: &mut Steer) -> Counters {
        Counters {
            // Only kernels that migrate (from Linux 5.14 on) have this counter.
            failed_migrations: netstat::tcp_counters(["TCPMigrateReqFailure"]).map(|[failed]| failed),
            answered_cookies: netstat::tcp_counters(["SyncookiesRecv"]).map(|[answered]| answered),
            left: steer.left().ok(),
        }
    }
}

/// The doubt about a proof, where the kernel migrates.
pub(super) fn lost_by_migration(before: Counters, now: Counters) -> Option<Doubt> {
    match grown(before.failed_migrations, now.failed_migrations) {
        Some(0) => None,
        Some(failed) => {
            let why = format!("{failed} connections did not move over: the new socket's accept queue was full");
            Some(Doubt::new(ReasonCode::Undrained, why))
        }
        None => {
            let why = "the kernel does not tell whether all connections moved over (TCPMigrateReqFailure)";
            Some(Doubt::new(ReasonCode::Unobservable, why))
        }
    }
}

/// The doubt about a proof, where the program only selects.
pub(super) fn lost_by_selection(before: Counters, now: Counters) -> Option<Doubt> {
    let connections = grown(before.left.map(|left| left.connections), now.left.map(|left| left.connections));
    let answers = grown(before.left.map(|left| left.answers), now.left.map(|left| left.answers));
    let (Some(connections), Some(answers)) = (connections, answers) else {
        let why = "it could not be read whether all connections were steered";
        return Some(Doubt::new(ReasonCode::Unobservable, why));
    };
    // Late segments of closed connections count as answers too. The kernel counts those that began a connection.
    let cookies = match grown(before.answered_cookies, now.answered_cookies) {
        Some(cookies) => cookies.min(answers),
        None => answers,
    };
    match connections + cookies {
        0 => None,
        left => {
            let why =
                format!("{left} connections were left to the kernel's choice, and may have gone to the old socket");
            Some(Doubt::new(ReasonCode::Diverted, why))
        }
    }
}

fn grown(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    now?.checked_sub(before?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Counters = Counters {
        failed_migrations: Some(3),
        answered_cookies: Some(7),
        left: Some(Left { connections: 5, answers: 11 }),
    };

    fn selected(connections: u64, answers: u64, cookies: Option<u64>) -> Option<Doubt> {
        let left = Left { connections: 5 + connections, answers: 11 + answers };
        let answered_cookies = cookies.map(|cookies| 7 + cookies);
        lost_by_selection(BEFORE, Counters { left: Some(left), answered_cookies, ..BEFORE })
    }

    #[test]
    fn late_segments_are_not_counted_as_connections() {
        assert_eq!(selected(0, 9, Some(0)), None);
    }

    #[test]
    fn new_connections_and_answered_cookies_are_counted() {
        for (connections, answers, cookies, expected) in
            [(1, 0, Some(0), "1 "), (0, 9, Some(2), "2 "), (1, 1, Some(4), "2 "), (0, 4, None, "4 ")]
        {
            let doubt = selected(connections, answers, cookies).unwrap().why;
            assert!(doubt.starts_with(expected), "{doubt}");
        }
        assert!(lost_by_selection(BEFORE, Counters { left: None, ..BEFORE }).is_some());
    }

    #[test]
    fn failed_migration_is_a_loss() {
        assert_eq!(lost_by_migration(BEFORE, BEFORE), None);
        let failed = |failed_migrations| lost_by_migration(BEFORE, Counters { failed_migrations, ..BEFORE });
        assert!(failed(Some(4)).unwrap().why.starts_with("1 connections"));
        assert!(failed(None).is_some());
    }
}
