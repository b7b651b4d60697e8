//! Holds SYNs without bpf(2), on any kernel that has the plug qdisc: u32 filters and plugs, Yelp's technique.
//!
//! A plug holds every packet that is put into it, from its creation until it is opened. Filters put SYNs for a held port of this host
//! into it. For local clients the plug is a band of a `prio` on `lo`. SYNs of clients from outside are redirected, on the device by
//! which they arrive, to an ifb device. The plug of that device sends them back into the same place.
//!
//! There is no lease: the holder needs a guard. Everything that a gate knows can be read from the kernel too. So a guard
//! ([`QdiscGate::restore`]) and a later process ([`remove_stale`]) end a hold as its holder would have.
//!
//! When a root qdisc, `ingress` or `clsact` is added or removed, the device loses for a moment what it is given to send
//! (`dev_deactivate` in `qdisc_graft`, net/sched/sch_api.c). A device that has an `ingress` or `clsact` already is spared that. `lo` is
//! not.

mod coverage;
mod delivery;
mod discovery;
mod dismantle;
mod error;
mod filters;
mod gate;
mod ingress;
mod install;
mod layout;
mod lo_prio;
mod marks;
mod plugs;
mod removal_failures;
mod retry;
mod site;
mod stale;
mod timing;

pub use error::QdiscError;
pub use gate::QdiscGate;
pub(crate) use lo_prio::{keep_prio, release_prio};
pub use stale::remove_stale;
