//! The contents of a registry entry.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::netns::current_netns;
use crate::gate::contract::Backend;

/// The largest id. The gates need the sixteenth bit for themselves.
pub(in crate::gate::hold) const MAX_ID: u16 = 0x7fff;

/// What is on record about a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HoldRecord {
    /// The hold's id: see [`Spec::id`](crate::gate::hold::Spec::id).
    pub id: u16,
    /// The process id of the holder.
    pub holder: u32,
    /// The guard, `None` until it has the gate. No SYN is parked before.
    pub guard: Option<GuardId>,
    /// The gate, `None` until it is chosen.
    pub backend: Option<Backend>,
    /// The network namespace, by the inode of its file in /proc.
    pub netns: u64,
    /// The addresses whose SYNs are held.
    pub listen: Vec<SocketAddr>,
    /// The path that named the network namespace, where it is not the holder's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// When the hold was registered, RFC 3339 in UTC.
    pub since: String,
    /// The guard has released, although the holder lives. Nothing is held any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifted: bool,
}

/// A guard process. The start time tells it from a later process with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuardId {
    /// Its process id.
    pub pid: u32,
    /// Its start time, in clock ticks since boot.
    pub start_time: u64,
}

impl HoldRecord {
    /// Whether the calling thread is in the network namespace of the hold.
    pub fn is_of_this_namespace(&self) -> bool {
        current_netns().is_ok_and(|netns| netns == self.netns)
    }
}

/// An entry of the registry, and whether its hold lives.
#[derive(Debug)]
pub struct HoldEntry {
    /// The hold's id.
    pub id: u16,
    /// What is on record. `None` while a process writes it.
    pub record: Option<HoldRecord>,
    /// Whether the holder or the guard lives.
    pub lives: bool,
}

impl HoldEntry {
    /// Whether the hold has its addresses: it lives and was not lifted.
    pub(in crate::gate::hold) fn is_claimed(&self) -> bool {
        self.lives && !self.record.as_ref().is_some_and(|record| record.lifted)
    }

    /// Whether SYNs may be parked: the hold has its addresses, and is not merely being prepared.
    pub fn holds(&self) -> bool {
        self.is_claimed() && self.record.as_ref().is_none_or(|record| record.guard.is_some())
    }

    /// Whether both are entries of one hold. A later hold can get the same id.
    pub(in crate::gate::hold) fn is_of_the_same_hold(&self, other: &HoldEntry) -> bool {
        let began = |entry: &HoldEntry| entry.record.as_ref().map(|record| (record.holder, record.since.clone()));
        self.id == other.id && began(self).zip(began(other)).is_none_or(|(one, other)| one == other)
    }
}
