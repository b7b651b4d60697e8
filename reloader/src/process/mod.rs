//! Processes: started, followed, signalled, looked into. Nothing else in the crate touches a pid.

pub mod children;
mod command;
mod handle;
mod kin;
mod namespaces;
mod procfs;
pub mod readiness;
mod signals;
mod waiting;

pub use command::{run_aside, succeeds};
pub use handle::{Ended, Handle, ProcessError, kill_if_same};
pub use kin::Kin;
pub use namespaces::{network_namespace, shares_processes};
pub use procfs::{
    SocketOwner, command_line, control_groups, effective_capabilities, environment, executable, family, groups_of,
    has_ended, holders_of, is_descendant, is_init, is_stopped, parent, pids, session_members, socket_at, sockets_of,
    stack_start, start_time, started_at, tree, user_of, whole_environment,
};
pub use signals::{is_beyond_signals, is_pending, minds};
pub use waiting::{sits_in_accept, waits_on};
