//! Holding SYNs: for the length of a bind window no SYN reaches a port that would refuse it, and each is delivered
//! afterwards. Two gates can do it, [`ebpf`](super::ebpf) and [`qdisc`](super::qdisc); what they have in common is here.

mod channel;
mod clean_up;
mod delivery_lock;
mod gates;
mod guard;
mod handle;
mod health;
mod liveness_socket;
mod own_entry;
mod persistent_qdiscs;
mod registry;
mod worker;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ebpf::{EbpfError, EbpfGate};
use super::qdisc::{QdiscError, QdiscGate};
use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::Address;

pub use clean_up::{CleanUp, clean_up, lift_all};
pub use gates::Gates;
pub use guard::run as run_guard;
pub use handle::{EndReason, Hold, HoldOutcome, HoldRequest, HoldStarted};
pub use own_entry::OwnEntry;
pub use persistent_qdiscs::PersistentQdiscs;
pub use registry::{HoldEntry, HoldRecord, HoldRegistry, Locked, RecordError};

/// One of the two gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A tc program and a ring buffer.
    Ebpf,
    /// u32 filters and the plug qdisc.
    Qdisc,
}

/// What to hold SYNs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The listener's address; 0.0.0.0 and `::` are any address of the host.
    pub address: SocketAddr,
    /// Whether an IPv6 listener leaves IPv4 alone. Without it, `::` is any address of both families.
    pub v6only: bool,
    /// The number of the device that the listener is bound to (SO_BINDTODEVICE); 0 for none.
    pub interface: u32,
}

/// Somebody else's listener on a single address, which a wildcard target leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exception {
    /// Its address.
    pub address: SocketAddr,
    /// The number of the device that it is bound to, elsewhere it hears nothing; 0 for none.
    pub interface: u32,
}

impl Exception {
    /// Of a listener, unless its address is any.
    pub fn from_listener(listener: &ListenSocket) -> Option<Exception> {
        match listener.address {
            Address::Inet(address) if !address.ip().is_unspecified() => {
                Some(Exception { address, interface: listener.interface })
            }
            _ => None,
        }
    }
}

/// One hold, as it is asked of a gate.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Tells this hold's traces in the kernel from another's: 1 to 0x7fff, unique among the living holds.
    pub id: u16,
    /// What is held.
    pub targets: Vec<Target>,
    /// What a wildcard target leaves alone.
    pub exceptions: Vec<Exception>,
    /// Bytes of room for parked SYNs. The eBPF gate rounds it up to a power of two.
    pub capacity: u32,
}

/// What became of the SYNs of a hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStats {
    /// Parked.
    pub held: u64,
    /// Delivered; fewer than were held where a client sent one SYN twice.
    pub released: u64,
    /// Not parked for want of room.
    pub dropped: u64,
    /// Parked, and not delivered because their device has gone.
    pub device_gone: u64,
    /// SYNs that passed a held port because the lease had run out.
    pub lease_lapsed: u64,
    /// The longest time a SYN was parked.
    pub longest: Duration,
}

/// What a guard needs to release a gate in its holder's place.
#[derive(Debug)]
pub struct Handover {
    /// What the gate noted about itself.
    pub manifest: serde_json::Value,
    /// Duplicates of its maps, links and sockets, in the order that the manifest says.
    pub descriptors: Vec<OwnedFd>,
}

/// What a gate did as far as it could, and the first thing that it could not.
#[derive(Debug)]
pub struct Partial<T> {
    /// What was done.
    pub done: T,
    /// What was not.
    pub trouble: Option<HoldError>,
}

impl<T> Partial<T> {
    /// For whom a part is nothing.
    ///
    /// # Errors
    /// Where there was trouble.
    pub fn into_result(self) -> Result<T, HoldError> {
        self.trouble.map_or(Ok(self.done), Err)
    }
}

/// How long a hold goes on without [`Gate::renew`].
pub const LEASE: Duration = Duration::from_millis(500);

/// How long holder and guard wait for each other's delivery: one that was stopped keeps nobody's SYNs parked. Longer than a living
/// one is ever busy with a single SYN.
pub(super) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// A way to hold SYNs. The order of calls is that of the methods; all of one gate come from threads of one network namespace.
///
/// A gate that is dropped removes what it has put into the kernel.
pub trait Gate: Send {
    /// Starts to park SYNs. Before, everything is in place and nothing is parked.
    ///
    /// # Errors
    /// Where the kernel refuses; nothing is parked then.
    fn arm(&mut self) -> Result<(), HoldError>;

    /// Why this hold proves nothing, although it is in place.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Extends the lease to [`LEASE`] from now.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn renew(&mut self) -> Result<(), HoldError>;

    /// Covers the devices and addresses that came since, forgets those that went. True where the keepsake is another now. Trouble
    /// with one of them keeps none of the others from being covered. It renews the lease on its way; `meanwhile` is done at each
    /// device.
    fn follow(&mut self, meanwhile: &mut dyn FnMut()) -> Partial<bool>;

    /// For the guard. It is complete before [`Gate::arm`] is called.
    ///
    /// # Errors
    /// Where a descriptor cannot be duplicated.
    fn keepsake(&self) -> Result<Handover, HoldError>;

    /// Lets new SYNs pass and delivers the parked ones in their order. A second call finds nothing to do. Trouble with some of them
    /// keeps none of the others from being delivered.
    fn deliver(&mut self) -> Partial<HoldStats>;

    /// Takes everything out of the kernel again. The guard has let go of its duplicates by now, or is the one who calls.
    ///
    /// # Errors
    /// Where something could not be removed, after everything else was.
    fn remove(&mut self) -> Result<(), HoldError>;

    /// Both, where no guard has to be told between them.
    ///
    /// # Errors
    /// As of both.
    fn release(&mut self) -> Result<HoldStats, HoldError> {
        let delivered = self.deliver();
        self.remove()?;
        delivered.into_result()
    }
}

/// Why a hold proves nothing where other people's filters decide before it does on these devices: nothing tells what they decided.
pub(super) fn behind_others<'a>(devices: impl Iterator<Item = &'a str>) -> Option<String> {
    let devices: BTreeSet<&str> = devices.collect();
    (!devices.is_empty()).then(|| {
        let devices = Vec::from_iter(devices).join(", ");
        format!("other filters stand before the hold on {devices}: a SYN that one of them decides on is not held")
    })
}

/// The ids of the holds that have a living holder or guard.
pub type Living = HashSet<u16>;

/// A gate in place, and why it is not the better one.
type Prepared = (Backend, Box<dyn Gate>, Option<String>);

/// Puts a gate in place; without a `backend` the eBPF gate, or the qdisc gate where that cannot be used, with the reason.
fn prepare(spec: &Spec, backend: Option<Backend>) -> Result<Prepared, HoldError> {
    let ebpf = || EbpfGate::prepare(spec).map(|gate| Box::new(gate) as Box<dyn Gate>);
    let qdisc = || QdiscGate::prepare(spec).map(|gate| Box::new(gate) as Box<dyn Gate>);
    match backend {
        Some(Backend::Ebpf) => Ok((Backend::Ebpf, ebpf()?, None)),
        Some(Backend::Qdisc) => Ok((Backend::Qdisc, qdisc()?, None)),
        None => match (ebpf(), qdisc) {
            (Ok(gate), _) => Ok((Backend::Ebpf, gate, None)),
            (Err(ebpf), qdisc) => match qdisc() {
                Ok(gate) => Ok((Backend::Qdisc, gate, Some(format!("held by the qdisc gate, because: {ebpf}")))),
                Err(qdisc) => Err(HoldError::Neither { ebpf, qdisc }),
            },
        },
    }
}

/// The gate that a keepsake is of.
fn restore(backend: Backend, keepsake: Handover) -> Result<Box<dyn Gate>, HoldError> {
    Ok(match backend {
        Backend::Ebpf => Box::new(EbpfGate::restore(keepsake)?),
        Backend::Qdisc => Box::new(QdiscGate::restore(&keepsake)?),
    })
}

/// Why SYNs cannot be held, or not as they should.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The eBPF gate cannot.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The qdisc gate cannot.
    #[error(transparent)]
    Qdisc(#[from] QdiscError),
    /// None of the two can.
    #[error("no gate can hold here.\n  eBPF: {ebpf}\n  qdisc: {qdisc}")]
    Neither {
        /// Why not the eBPF gate.
        ebpf: EbpfError,
        /// Why not the qdisc gate.
        qdisc: QdiscError,
    },
    /// The hold is not on record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No guard could be had: without one, a killed holder would lose what is parked.
    #[error("cannot hold: the guard process failed: {0}")]
    Guard(io::Error),
    /// A descriptor or the thread of the holder.
    #[error("cannot hold: {0}")]
    Io(#[from] io::Error),
}
