//! Sends requests to the kernel over netlink. A request blocks until its answer arrives, and needs no runtime.
//!
//! - [`request`] is written by hand, for lists on which coverage depends and for messages that `rtnetlink` has no builder for.
//! - [`execute`] sends single requests of the crate `rtnetlink`, and [`Notices`] receives its subscriptions.
//!
//! Why there are two ways is in `docs/internals/netlink.md`.
#![expect(clippy::disallowed_methods, reason = "this module makes the netlink sockets of the whole crate")]

use std::time::Duration;

mod attributes;
mod exchange;
mod polled_socket;
#[cfg(test)]
mod recording_socket;
mod rtnl;

#[cfg(test)]
pub(super) use exchange::encode;
pub(crate) use exchange::{CREATE, request};
#[cfg(test)]
pub(super) use recording_socket::bytes_sent;
pub(crate) use rtnl::{Notices, execute};

/// The kernel answers within the system call that sends the request. An answer that has not arrived after this time was
/// lost, for example because the kernel had no memory for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
