//! Tests servers other than HAProxy, each configured by a `[service.NAME]` table.

pub(crate) mod scene;

mod all;
mod blocking;
mod changes;
mod failures;
mod hooks;
mod kills;
mod overlap;
mod overlap_binds;
mod overlap_faults;
mod overlap_groups;
mod overlap_risks;
mod overlap_servers;
mod readiness;
mod reloads;
mod several;
mod sockets;
mod wayward;
