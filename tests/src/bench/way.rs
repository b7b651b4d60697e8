use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A way of reloading HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Way {
    /// `kill -9`, then start.
    KillAndStart,
    /// `-sf` of a HAProxy that cannot bind a port that another one has, as on a kernel before 3.9.
    NoReusePort,
    /// `-sf`
    SoftStop,
    /// `-sf` while iptables drops SYNs.
    SynsDropped,
    /// `-x SOCKET -sf`
    PassSockets,
    /// `-W`, and SIGUSR2 to the master.
    MasterWorker,
    /// Reloader, each listener passed.
    Passed,
    /// Reloader, each listener bound anew in its reuseport group.
    Steered,
    /// Reloader, SYNs held by eBPF.
    HeldEbpf,
    /// Reloader, SYNs held by qdiscs.
    HeldQdisc,
}

impl Way {
    /// All of them: without reloader, then with it.
    pub const ALL: [Way; 10] = [
        Way::KillAndStart,
        Way::NoReusePort,
        Way::SoftStop,
        Way::SynsDropped,
        Way::PassSockets,
        Way::MasterWorker,
        Way::Passed,
        Way::Steered,
        Way::HeldEbpf,
        Way::HeldQdisc,
    ];

    /// Its name on command lines and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill-and-start",
            Way::NoReusePort => "noreuseport",
            Way::SoftStop => "sf",
            Way::SynsDropped => "syns-dropped",
            Way::PassSockets => "x",
            Way::MasterWorker => "master-worker",
            Way::Passed => "passed",
            Way::Steered => "steered",
            Way::HeldEbpf => "held-ebpf",
            Way::HeldQdisc => "held-qdisc",
        }
    }

    /// Its name for reading.
    pub fn title(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill, then start",
            Way::NoReusePort => "-sf with noreuseport",
            Way::SoftStop => "-sf",
            Way::SynsDropped => "-sf, SYNs dropped by iptables",
            Way::PassSockets => "-x and -sf",
            Way::MasterWorker => "master-worker",
            Way::Passed => "reloader, passed",
            Way::Steered => "reloader, steered",
            Way::HeldEbpf => "reloader, held by eBPF",
            Way::HeldQdisc => "reloader, held by qdiscs",
        }
    }

    /// What is done, in a sentence.
    pub fn note(self) -> &'static str {
        match self {
            Way::KillAndStart => "kill -9 of HAProxy, then a start: until that has bound the port, nobody listens.",
            Way::NoReusePort => {
                "The new process waits until the old one has let go of the port, as on kernels before 3.9 and for servers \
                 that bind without SO_REUSEPORT."
            }
            Way::SoftStop => {
                "The new process binds beside the old one, which closes its socket with what is queued on it."
            }
            Way::SynsDropped => {
                "The same, while a rule in INPUT drops SYNs: their clients send them again, a second later at the earliest."
            }
            Way::PassSockets => "HAProxy's own transfer of sockets, from its stats socket with expose-fd.",
            Way::MasterWorker => "SIGUSR2 to the master, as the distributions' unit reloads.",
            Way::Passed => "The new process gets the same sockets, and the kernel is asked whether it has them.",
            Way::Steered => "The new process binds beside the old one; an eBPF program moves what is queued.",
            Way::HeldEbpf => {
                "HAProxy with noreuseport: SYNs are parked by an eBPF program until the new process listens."
            }
            Way::HeldQdisc => "The same, parked by queueing disciplines, as on kernels without eBPF.",
        }
    }

    /// Of reloader: the rung that each receipt must name.
    pub fn rung(self) -> Option<&'static str> {
        let is_ours = [Way::Passed, Way::Steered, Way::HeldEbpf, Way::HeldQdisc].contains(&self);
        is_ours.then(|| self.word())
    }

    /// Of reloader: its `strategy`.
    pub fn strategy(self) -> &'static str {
        match self {
            Way::Steered => "steer",
            Way::HeldEbpf => "hold",
            Way::HeldQdisc => "kernel-fallback",
            _ => "fd-pass",
        }
    }

    /// Whether its HAProxy says `noreuseport`.
    pub fn binds_alone(self) -> bool {
        [Way::NoReusePort, Way::HeldEbpf, Way::HeldQdisc].contains(&self)
    }

    /// Whether it needs a distribution's kernel, which has sch_plug.
    pub fn needs_guest(self) -> bool {
        self == Way::HeldQdisc
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        Way::ALL.into_iter().find(|way| way.word() == text).ok_or_else(|| {
            let words = Way::ALL.map(Way::word).join(", ");
            format!("there is no way `{text}`, but {words}")
        })
    }
}

impl From<Way> for String {
    fn from(way: Way) -> String {
        way.word().to_owned()
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
    fn each_way_is_known_by_its_word_alone() {
        for way in Way::ALL {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("fast".parse::<Way>().unwrap_err().contains("held-ebpf"));
    }
}
