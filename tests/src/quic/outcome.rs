//! Sums up the outcome of a load of QUIC connections.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// The outcome of the connections of a load.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// New connections, including the first request of long-lived ones.
    pub connections: u64,
    /// Connections whose handshake did not complete.
    pub unanswered: u64,
    /// Connections whose handshake completed and that got no reply: the reasons, each with its count.
    pub unserved: BTreeMap<String, u64>,
    /// Long-lived connections by how the server ended them (`None`: it did not): their number, and the requests that
    /// got no reply.
    pub long_lived: BTreeMap<Option<String>, (u64, u64)>,
    /// Replies on long-lived connections.
    pub replies: u64,
    slowest_ms: f64,
}

impl Outcomes {
    pub(super) fn from_reports(reports: &[Value]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for report in reports {
            let failure = report["failure"].as_str();
            if report["kind"] == "long-lived" {
                let end = report["end"].as_str().map(str::to_owned).or_else(|| failure.map(str::to_owned));
                let (ends, unanswered) = outcomes.long_lived.entry(end).or_default();
                *ends += 1;
                *unanswered += u64::from(failure.is_some());
                outcomes.replies += report["answered"].as_u64().unwrap_or_default();
                continue;
            }
            outcomes.connections += 1;
            match failure {
                None => outcomes.slowest_ms = outcomes.slowest_ms.max(report["ms"].as_f64().unwrap_or_default()),
                Some(why) if report["handshake_done"] == true => *outcomes.unserved.entry(why.into()).or_default() += 1,
                Some(_) => outcomes.unanswered += 1,
            }
        }
        outcomes
    }

    /// The number of new connections whose handshake completed and that got no reply.
    pub fn unserved(&self) -> u64 {
        self.unserved.values().sum()
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcomes { connections, unanswered, unserved, slowest_ms, long_lived, replies } = self;
        write!(
            out,
            "{connections} connections, {unanswered} unanswered, unserved {unserved:?}, slowest {slowest_ms} ms"
        )?;
        write!(out, "; long-lived {long_lived:?}, {replies} replies")
    }
}
