//! Names the ways of reloading HAProxy that the benchmark compares.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A way of reloading HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Way {
    /// `kill -9`, then start.
    KillAndStart,
    /// `-sf` of a HAProxy that cannot bind beside another process, as on a kernel before 3.9.
    NoReusePort,
    /// `-sf`
    SoftStop,
    /// `-sf` while iptables drops SYNs.
    SynsDropped,
    /// `-x SOCKET -sf`
    PassSockets,
    /// `-W`, and SIGUSR2 to the master.
    MasterWorker,
    /// Two instances, switched by a map of nftables.
    FlipNftables,
    /// Two instances, switched by a program at the kernel's lookup of listeners.
    FlipSkLookup,
    /// nginx owns the port, and HAProxy behind it a Unix path that each of its generations binds.
    Front,
    /// The same, with HAProxy under reloader, which passes the Unix socket.
    FrontPassed,
    /// Reloader, each listener passed.
    Passed,
    /// Reloader, each listener bound again in its reuseport group.
    Steered,
    /// Reloader, and a HAProxy that binds alone, whose port is shared while the new generation starts.
    Overlap,
    /// Reloader, SYNs held by eBPF.
    HeldEbpf,
    /// Reloader, SYNs held by qdiscs.
    HeldQdisc,
}

impl Way {
    /// All ways: first those without reloader, then those with it.
    pub const ALL: [Way; 15] = [
        Way::KillAndStart,
        Way::NoReusePort,
        Way::SoftStop,
        Way::SynsDropped,
        Way::PassSockets,
        Way::MasterWorker,
        Way::FlipNftables,
        Way::FlipSkLookup,
        Way::Front,
        Way::FrontPassed,
        Way::Passed,
        Way::Steered,
        Way::Overlap,
        Way::HeldEbpf,
        Way::HeldQdisc,
    ];

    /// The name on command lines and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill-and-start",
            Way::NoReusePort => "noreuseport",
            Way::SoftStop => "sf",
            Way::SynsDropped => "syns-dropped",
            Way::PassSockets => "x",
            Way::MasterWorker => "master-worker",
            Way::FlipNftables => "flip-nftables",
            Way::FlipSkLookup => "flip-sk-lookup",
            Way::Front => "front",
            Way::FrontPassed => "front-passed",
            Way::Passed => "passed",
            Way::Steered => "steered",
            Way::Overlap => "overlap",
            Way::HeldEbpf => "held-ebpf",
            Way::HeldQdisc => "held-qdisc",
        }
    }

    /// The name in reports.
    pub fn title(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill, then start",
            Way::NoReusePort => "-sf with noreuseport",
            Way::SoftStop => "-sf",
            Way::SynsDropped => "-sf, SYNs dropped by iptables",
            Way::PassSockets => "-x and -sf",
            Way::MasterWorker => "master-worker",
            Way::FlipNftables => "two instances, flip by nftables",
            Way::FlipSkLookup => "two instances, flip by sk_lookup",
            Way::Front => "nginx in front, -sf",
            Way::FrontPassed => "nginx in front, reloader, passed",
            Way::Passed => "reloader, passed",
            Way::Steered => "reloader, steered",
            Way::Overlap => "reloader, overlap of noreuseport",
            Way::HeldEbpf => "reloader, held by eBPF",
            Way::HeldQdisc => "reloader, held by qdiscs",
        }
    }

    /// A sentence about what is done.
    pub fn note(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill -9 of HAProxy, then a start: until it has bound the port, there is no listener.",
            Way::NoReusePort => {
                "The new process waits until the old one has released the port, as on kernels before 3.9 and for servers \
                 that bind without SO_REUSEPORT."
            }
            Way::SoftStop => {
                "The new process binds beside the old one, which closes its socket together with the connections queued on it."
            }
            Way::SynsDropped => {
                "The same, while a rule in INPUT drops SYNs: their clients send them again, a second later at the earliest."
            }
            Way::PassSockets => "HAProxy's own transfer of sockets, from its stats socket with expose-fd.",
            Way::MasterWorker => "SIGUSR2 to the master, as the distributions' unit reloads.",
            Way::FlipNftables => {
                "The other instance starts on a port of its own, and a map of nftables sends new connections there; the old one ends when its \
                 queue is empty."
            }
            Way::FlipSkLookup => {
                "The same, but an eBPF program at the kernel's lookup of listeners chooses the instance."
            }
            Way::Front => {
                "nginx owns the port and connects to HAProxy over a Unix socket, whose path each new HAProxy binds (Yelp, 2017)."
            }
            Way::FrontPassed => "The same, but reloader reloads HAProxy, and passes the Unix socket.",
            Way::Passed => "The new process gets the same sockets, and the kernel is asked whether it has them.",
            Way::Steered => "The new process binds beside the old one; an eBPF program moves the queued connections.",
            Way::Overlap => {
                "HAProxy with noreuseport: an eBPF program at bind(2) lets the new process bind beside the old one, and another moves the \
                 queued connections."
            }
            Way::HeldEbpf => {
                "HAProxy with noreuseport: SYNs are parked by an eBPF program until the new process listens."
            }
            Way::HeldQdisc => "The same, parked by queueing disciplines, as on kernels without eBPF.",
        }
    }

    /// The rung that each receipt must name. None for a way without reloader.
    pub fn rung(self) -> Option<&'static str> {
        match self {
            Way::Passed | Way::FrontPassed => Some("passed"),
            Way::Steered | Way::Overlap => Some("steered"),
            Way::HeldEbpf | Way::HeldQdisc => Some(self.name()),
            _ => None,
        }
    }

    /// The `strategy` in reloader's configuration.
    pub fn strategy(self) -> &'static str {
        match self {
            Way::Steered | Way::Overlap => "steer",
            Way::HeldEbpf => "hold",
            Way::HeldQdisc => "kernel-fallback",
            _ => "fd-pass",
        }
    }

    /// Whether its HAProxy is configured with `noreuseport`.
    pub fn binds_alone(self) -> bool {
        [Way::NoReusePort, Way::Overlap, Way::HeldEbpf, Way::HeldQdisc].contains(&self)
    }

    /// Whether this way needs the kernel of a distribution: only such a kernel has sch_plug.
    pub fn needs_guest(self) -> bool {
        self == Way::HeldQdisc
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        Way::ALL.into_iter().find(|way| way.name() == text).ok_or_else(|| {
            let names = Way::ALL.map(Way::name).join(", ");
            format!("unknown way `{text}`; known ways: {names}")
        })
    }
}

impl From<Way> for String {
    fn from(way: Way) -> String {
        way.name().to_owned()
    }
}

impl TryFrom<String> for Way {
    type Error = String;

    fn try_from(text: String) -> Result<Way, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_parsed_from_its_own_name() {
        for way in Way::ALL {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("fast".parse::<Way>().unwrap_err().contains("held-ebpf"));
    }
}
