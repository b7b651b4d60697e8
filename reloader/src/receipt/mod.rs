//! The receipt: the record of one reload. Its JSON is an interface; see `docs/reference/receipts.md`.

mod doubt;
mod identity;
mod reason_code;
mod recorder;

use serde::{Deserialize, Serialize};

use crate::model::listener::{Endpoint, Family, Role};

pub use doubt::Doubt;
pub(crate) use identity::{receipt_id, rfc3339};
pub use reason_code::ReasonCode;
pub(crate) use recorder::{Failure, Recorder};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The first generation of a daemon that found none.
    Start,
    /// Asked for.
    Reload,
    /// A generation that ended by itself was replaced.
    Restart,
    /// A generation that was there before the daemon came under its care.
    Adopt,
    /// SYNs were held while a command ran.
    Hold,
    /// A draining generation was ended early, as the configuration asks.
    End,
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every traffic listener has its proof.
    Proven,
    /// Done, but at least one traffic listener has none.
    Unproven,
    /// Not done.
    Failed,
}

/// One way to close the bind window for a listener, or why none was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// The new generation owns the same socket.
    Passed,
    /// New SYNs were steered to the new socket, queued ones moved over.
    Steered,
    /// SYNs were parked by an eBPF program.
    HeldEbpf,
    /// SYNs were parked by a qdisc.
    HeldQdisc,
    /// Reserved: a unix path was renamed atomically. No receipt says it, because a client between the old and the new path is not seen.
    Replaced,
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// Nothing applied.
    Unproven,
}

/// A generation in a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationId {
    /// Its number.
    pub generation: u64,
    /// Its root process.
    pub pid: u32,
}

/// Microseconds in each phase; `null` for a phase that did not take place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Deciding.
    pub plan: Option<u64>,
    /// Until the new generation answered.
    pub start: Option<u64>,
    /// Until every listener had its verdict.
    pub confirm: Option<u64>,
    /// Until listeners at risk were protected.
    pub guard: Option<u64>,
    /// Until old queues were empty.
    pub drain: Option<u64>,
    /// Until the old generation listened no more.
    pub retire: Option<u64>,
    /// Until held SYNs were delivered.
    pub release: Option<u64>,
    /// From request to receipt.
    pub total: Option<u64>,
}

/// One listening inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListenerReceipt {
    /// Where it listens.
    pub address: String,
    /// Its address family.
    pub family: Family,
    /// What it is for.
    pub role: Role,
    /// How its bind window was closed.
    pub rung: Rung,
    /// Why not a stronger rung.
    pub why: Option<String>,
    /// Why it has no proof, for programs; `null` where it has one.
    #[serde(default)]
    pub why_code: Option<ReasonCode>,
    /// Its inode in the old generation.
    pub inode_before: Option<u64>,
    /// Its inode in the new generation.
    pub inode_after: Option<u64>,
    /// Connections that moved over.
    pub migrated: Option<u64>,
    /// Connections in the accept queue when the last holder closed it.
    pub undrained_queue: Option<u64>,
    /// Half-open connections at that moment.
    pub undrained_half_open: Option<u64>,
    /// Those of them whose client did not answer a first SYN-ACK.
    pub half_open_silent: Option<u64>,
}

/// What became of SYNs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Syns {
    /// Seen during the reload; `null` unless counted.
    pub seen: Option<u64>,
    /// Parked.
    pub held: u64,
    /// Delivered after parking.
    pub released: u64,
    /// Not parked because there was no room.
    pub dropped: u64,
    /// Times the lease ran out.
    pub lease_lapsed: u64,
    /// The longest time a SYN was parked, in microseconds.
    pub longest_hold_us: u64,
}

/// Connections lost, as far as the kernel shows; `null` where it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Accepted by an abandoned generation that had to be killed.
    pub abandoned: Option<u64>,
    /// Left in an accept queue, or half-open, when its listener went away.
    pub undrained: Option<u64>,
    /// Open when a draining generation was ended early.
    pub cut: Option<u64>,
}

impl Default for Lost {
    fn default() -> Lost {
        Lost { abandoned: Some(0), undrained: Some(0), cut: Some(0) }
    }
}

/// The whole record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Receipt {
    /// Unique, and sorts by time.
    pub id: String,
    /// When it was asked for, RFC 3339 in UTC.
    pub at: String,
    /// Which service: "haproxy", or the NAME of a `[service.NAME]`; `null` for a hold around a command.
    #[serde(default)]
    pub service: Option<String>,
    /// What happened.
    pub kind: Kind,
    /// How it came out.
    pub result: Outcome,
    /// Why it failed or is unproven, in a sentence.
    pub reason: Option<String>,
    /// The same for programs; `null` where it is proven.
    #[serde(default)]
    pub reason_code: Option<ReasonCode>,
    /// Further requests that this one answered too.
    pub coalesced: u64,
    /// The generation before.
    pub old: Option<GenerationId>,
    /// The generation after.
    pub new: Option<GenerationId>,
    /// It failed, and nothing serves: the old generation had ended, or had made room.
    #[serde(default)]
    pub nothing_serves: bool,
    /// Where the time went.
    pub phases_us: Phases,
    /// One entry for each listening inode.
    pub listeners: Vec<ListenerReceipt>,
    /// What became of SYNs.
    pub syns: Syns,
    /// What was lost.
    pub lost: Lost,
    /// What else the operator should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The server's own lines, where it did not start or refused its configuration.
    #[serde(default)]
    pub server_log: Vec<String>,
}

impl ListenerReceipt {
    /// It has no proof, for this reason.
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        self.rung = Rung::Unproven;
        (self.why, self.why_code) = (Some(doubt.why), Some(doubt.code));
    }

    /// It has its proof by this rung. It stays with why the rung is not a stronger one.
    pub(crate) fn prove(&mut self, rung: Rung) {
        (self.rung, self.why_code) = (rung, None);
    }

    /// An entry without evidence yet.
    pub fn new(endpoint: &Endpoint, role: Role, rung: Rung) -> ListenerReceipt {
        ListenerReceipt {
            address: endpoint.to_string(),
            family: endpoint.address.family(),
            role,
            rung,
            why: None,
            why_code: None,
            inode_before: None,
            inode_after: None,
            migrated: None,
            undrained_queue: None,
            undrained_half_open: None,
            half_open_silent: None,
        }
    }
}

/// The outcome that the listeners' rungs amount to, with the reason when it is not proven.
pub fn judge(listeners: &[ListenerReceipt]) -> (Outcome, Option<(ReasonCode, String)>) {
    let mut unproven =
        listeners.iter().filter(|listener| listener.role == Role::Traffic && listener.rung == Rung::Unproven);
    let Some(first) = unproven.next() else { return (Outcome::Proven, None) };
    let why = first.why.as_deref().unwrap_or("no rung applied");
    let others = match unproven.count() {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    let code = first.why_code.unwrap_or(ReasonCode::NotPassed);
    (Outcome::Unproven, Some((code, format!("{}: {why}{others}", first.address))))
}

/// The sum over all listeners that went away; `None` when one of them could not be measured.
pub(crate) fn undrained(receipts: &[ListenerReceipt]) -> Option<u64> {
    let gone = receipts.iter().filter(|receipt| match receipt.rung {
        Rung::Removed => true,
        Rung::Unproven => receipt.inode_before.is_some(),
        _ => false,
    });
    gone.map(|receipt| Some(receipt.undrained_queue? + receipt.undrained_half_open?)).sum()
}
