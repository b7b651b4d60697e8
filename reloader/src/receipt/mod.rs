//! Defines the receipt, the record of one reload. Its JSON is an interface; see `docs/reference/receipts.md`.

mod asked_by;
mod configuration;
mod doubt;
mod identity;
mod reason_code;
mod recorder;

use serde::{Deserialize, Serialize};

use crate::model::listener::{Endpoint, Family, Role};

pub use asked_by::AskedBy;
pub use configuration::{FileChange, FileDigest, changes};
pub use doubt::Doubt;
pub(crate) use identity::{receipt_id, rfc3339};
pub use reason_code::ReasonCode;
pub(crate) use recorder::{Failure, Recorder};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The daemon found no generation, and started the first one.
    Start,
    /// A reload was requested.
    Reload,
    /// A generation that ended by itself was replaced.
    Restart,
    /// The daemon took over the care of a generation that ran before it.
    Adopt,
    /// SYNs were held while a command ran.
    Hold,
    /// A draining generation ended before its connections did: the configuration asks for it, or it failed.
    End,
}

/// The outcome of what the receipt records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every traffic listener has its proof.
    Proven,
    /// Done, but at least one traffic listener has no proof.
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
    /// New SYNs were steered to the new socket, and queued connections were moved to it.
    Steered,
    /// SYNs were parked by an eBPF program.
    HeldEbpf,
    /// SYNs were parked by a qdisc.
    HeldQdisc,
    /// Reserved: a unix path was renamed atomically. No receipt has this rung, because a client that connects between the old and the new path
    /// cannot be seen.
    Replaced,
    /// The old generation had no such listener.
    Added,
    /// The new generation has no such listener.
    Removed,
    /// No rung applied.
    Unproven,
}

/// A generation in a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationId {
    /// The number of the generation.
    pub generation: u64,
    /// The pid of the generation's root process.
    pub pid: u32,
}

/// Microseconds in each phase; `null` for a phase that did not take place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The time to decide.
    pub plan: Option<u64>,
    /// The time until the new generation answered.
    pub start: Option<u64>,
    /// The time until every listener had its verdict.
    pub confirm: Option<u64>,
    /// The time until the listeners at risk were protected.
    pub guard: Option<u64>,
    /// The time until the old queues were empty.
    pub drain: Option<u64>,
    /// The time until the old generation no longer listened.
    pub retire: Option<u64>,
    /// The time until the held SYNs were delivered.
    pub release: Option<u64>,
    /// The time from the request to the receipt.
    pub total: Option<u64>,
}

/// The part of a receipt about one listening inode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ListenerReceipt {
    /// The address of the listener.
    pub address: String,
    /// Its address family.
    pub family: Family,
    /// What the listener is for.
    pub role: Role,
    /// How its bind window was closed.
    pub rung: Rung,
    /// Why the rung is not a stronger one.
    pub why: Option<String>,
    /// Why the listener has no proof, for programs; `null` if it has a proof.
    #[serde(default)]
    pub why_code: Option<ReasonCode>,
    /// The listener's inode in the old generation.
    pub inode_before: Option<u64>,
    /// The listener's inode in the new generation.
    pub inode_after: Option<u64>,
    /// Connections that moved to the new socket.
    pub migrated: Option<u64>,
    /// Connections in the accept queue when the last holder closed the listener.
    pub undrained_queue: Option<u64>,
    /// Half-open connections at that time, without those in `half_open_silent`.
    pub undrained_half_open: Option<u64>,
    /// Half-open connections at that time whose client did not answer the first SYN-ACK.
    pub half_open_silent: Option<u64>,
}

/// What happened to SYNs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Syns {
    /// SYNs seen during the reload; `null` unless they were counted.
    pub seen: Option<u64>,
    /// SYNs that were parked.
    pub held: u64,
    /// Parked SYNs that were delivered.
    pub released: u64,
    /// SYNs that were not parked because there was no room.
    pub dropped: u64,
    /// The number of times that the lease expired.
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
    /// When the reload was requested, RFC 3339 in UTC.
    pub at: String,
    /// The service: "haproxy", or the NAME of a `[service.NAME]`; `null` for a hold around a command.
    #[serde(default)]
    pub service: Option<String>,
    /// What happened.
    pub kind: Kind,
    /// The outcome.
    pub result: Outcome,
    /// Why the reload failed or is unproven, in a sentence.
    pub reason: Option<String>,
    /// The reason for programs; `null` if the reload is proven.
    #[serde(default)]
    pub reason_code: Option<ReasonCode>,
    /// Who asked first; `null` if the daemon acted by itself.
    #[serde(default)]
    pub asked_by: Option<AskedBy>,
    /// The number of further requests that this reload answered too.
    pub coalesced: u64,
    /// The files of the configuration and those that it names, with their digests; `null` where only the server knows them.
    #[serde(default)]
    pub configuration: Option<Vec<FileDigest>>,
    /// Whether these files are the same as those of the generation before; `null` if that is not known.
    #[serde(default)]
    pub unchanged: Option<bool>,
    /// The generation before the reload.
    pub old: Option<GenerationId>,
    /// The generation after the reload.
    pub new: Option<GenerationId>,
    /// Whether the reload failed and nothing serves, because the old generation had ended or had made room.
    #[serde(default)]
    pub nothing_serves: bool,
    /// Where the time went.
    pub phases_us: Phases,
    /// One entry for each listening inode.
    pub listeners: Vec<ListenerReceipt>,
    /// What happened to SYNs.
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
    /// Records that the listener has no proof, for this reason.
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        self.rung = Rung::Unproven;
        (self.why, self.why_code) = (Some(doubt.why), Some(doubt.code));
    }

    /// Records that the listener has its proof by this rung. `why` stays: it says why the rung is not a stronger one.
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

/// The outcome that follows from the listeners' rungs, with the reason if it is not proven.
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

/// The number of connections left on all listeners that went away; `None` if one of these listeners could not be
/// measured.
pub(crate) fn undrained(receipts: &[ListenerReceipt]) -> Option<u64> {
    let gone = receipts.iter().filter(|receipt| match receipt.rung {
        Rung::Removed => true,
        Rung::Unproven => receipt.inode_before.is_some(),
        _ => false,
    });
    gone.map(|receipt| Some(receipt.undrained_queue? + receipt.undrained_half_open?)).sum()
}
