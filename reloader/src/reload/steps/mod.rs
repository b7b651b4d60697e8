//! The steps that the strategies share: methods of an [`Attempt`](super::attempt::Attempt), and what they need.

mod abandon;
pub(super) mod check;
pub(super) mod count;
mod overlap_risks;
mod probe_connect;
mod protect;
pub(super) mod prove;
mod refuse;
pub(crate) mod retire;
mod share_ports;
mod start;
pub(crate) mod stop_listening;
mod strays;
