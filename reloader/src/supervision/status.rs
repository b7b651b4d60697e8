//! The answer to `status`. Its JSON is an interface: see `docs/reference/status.md`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::gate::hold::{Backend, HoldRecord};
use crate::model::listener::{Family, Owned, Role};
use crate::plan::Planned;
use crate::receipt::Receipt;

/// The whole answer. Its top level describes HAProxy, or the only service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// HAProxy, or the only service.
    #[serde(flatten)]
    pub main: ServiceStatus,
    /// Holds of SYNs in force.
    pub holds: Vec<HoldStatus>,
    /// The other services, by name.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceStatus>,
}

impl Status {
    /// All services, HAProxy or the only one first.
    pub fn all(&self) -> impl Iterator<Item = &ServiceStatus> {
        std::iter::once(&self.main).chain(self.services.values())
    }
}

/// One service.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    /// The name of the service.
    #[serde(default)]
    pub service: Option<String>,
    /// The serving generation, `null` when nothing serves.
    pub serving: Option<Serving>,
    /// The generation that is being started, `null` when none is.
    #[serde(default)]
    pub starting: Option<Starting>,
    /// Retired generations with open connections, oldest first.
    pub draining: Vec<Draining>,
    /// Listeners of which the daemon has a duplicate.
    pub custody: Vec<ListenerStatus>,
    /// The last receipt.
    pub last_reload: Option<Receipt>,
    /// What the operator should look at.
    pub warnings: Vec<String>,
    /// What else the operator should know, in sentences.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The plan for the next reload.
    #[serde(default)]
    pub plan: Vec<Planned>,
    /// New connections in the last second, `null` when HAProxy does not say.
    #[serde(default)]
    pub connection_rate: Option<u64>,
}

/// The generation that serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serving {
    /// Its number.
    pub generation: u64,
    /// Its root process.
    pub pid: u32,
    /// What it was started from.
    pub config: String,
    /// When it began to serve, RFC 3339 in UTC.
    pub since: String,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
}

/// A generation that is being started, and is not proven yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Starting {
    /// Its number.
    pub generation: u64,
    /// Its root process.
    pub pid: u32,
    /// When it was started, RFC 3339 in UTC.
    pub since: String,
    /// The last line that it wrote on standard error, `null` if it has written none.
    pub last_line: Option<String>,
}

/// A generation that drains.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Draining {
    /// Its number.
    pub generation: u64,
    /// Its root process.
    pub pid: u32,
    /// Seconds since it was retired.
    pub age_s: u64,
    /// Open connections, `null` when the kernel does not say.
    pub connections: Option<u64>,
}

/// A hold of SYNs by the daemon or by a `reloader hold`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// Its number.
    pub id: u16,
    /// The pid of the process that holds the SYNs.
    pub holder: u32,
    /// The gate, `null` until it is chosen.
    pub backend: Option<Backend>,
    /// The addresses whose SYNs are held.
    pub listen: Vec<SocketAddr>,
    /// When the hold began, RFC 3339 in UTC.
    pub since: String,
}

impl From<HoldRecord> for HoldStatus {
    fn from(record: HoldRecord) -> HoldStatus {
        let HoldRecord { id, holder, backend, listen, since, .. } = record;
        HoldStatus { id, holder, backend, listen, since }
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where it listens.
    pub address: String,
    /// Its address family.
    pub family: Family,
    /// What it is for.
    pub role: Role,
    /// Its inode.
    pub inode: u64,
}

impl From<&Owned> for ListenerStatus {
    fn from(owned: &Owned) -> ListenerStatus {
        let Owned { listener, role } = owned;
        ListenerStatus {
            address: listener.endpoint.to_string(),
            family: listener.endpoint.address.family(),
            role: *role,
            inode: listener.inode,
        }
    }
}
