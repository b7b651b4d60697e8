//! Runs a test in namespaces and control groups of its own, and removes all of it at the end, whatever the test did.
//!
//! Two processes: the outer one keeps the limit and cleans up; the inner one is PID 1 of a process namespace, so that its
//! end is the end of everything that the test has started. The outer one may be killed as well: the kernel then kills the
//! inner one, and `sweep` removes the directory and the control groups at the next run.

mod control_groups;
mod idle_group;
mod inner;
mod outer;
mod scratch;

pub use control_groups::own_groups as own_control_groups;
pub use idle_group::IdleGroup;
pub use inner::run as run_inner;
pub use outer::{KILLED, Run};
pub use scratch::sweep;

/// What the outer process passes to make its own program the inner one.
pub const INNER: &str = "--inner";
