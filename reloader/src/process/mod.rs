//! Processes: started, followed, signalled, looked into. Nothing else in the crate touches a pid.

mod handle;
mod procfs;

pub use handle::{Ended, Handle, ProcessError, kill_if_same};
pub use procfs::{
    SocketOwner, command_line, control_groups, effective_capabilities, executable, family, groups_of, has_ended,
    holders_of, is_descendant, is_init, is_stopped, network_namespace, parent, pids, socket_at, sockets_of, start_time,
    tree,
};
