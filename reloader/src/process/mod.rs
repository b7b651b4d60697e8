//! Starts, follows, signals and inspects processes. The rest of the crate passes pids on, and calls this room to use them.

mod blocking;
pub mod children;
mod command;
pub(crate) mod control_group;
mod ended;
mod handle;
mod in_accept;
mod namespaces;
mod open_files;
mod pause;
mod pid_files;
mod procfs;
pub mod readiness;
mod scope;
mod signals;
mod sockets;
mod waiting;

pub use blocking::{BlockingLane, run_blocking};
pub use command::{output_within, run_to_success, run_to_success_in_background, start_detached};
pub use ended::Ended;
pub use handle::{Handle, ProcessError, kill_if_same};
pub use in_accept::{AcceptState, AcceptWaiters};
pub use namespaces::{network_namespace, shares_processes};
pub(crate) use open_files::{Writing, WrittenFile, written_files};
pub use pause::pause_briefly;
pub(crate) use pid_files::pid_files_of;
pub use procfs::{
    command_line, control_groups, effective_capabilities, environment, executable, family, groups_of, has_ended,
    is_descendant, is_init, is_stopped, parent, pids, session_members, short_command_line, stack_start, start_time,
    started_at, tree, user_of, whole_environment,
};
pub use scope::ProcessScope;
pub use signals::{cannot_signal, handles_signal, is_pending, signal_by_name, signal_name};
pub use sockets::{
    DescriptorTables, ProcessSockets, SocketOwner, holders_of, shows_descriptors, socket_at, sockets_of,
};
pub use waiting::waits_on;
