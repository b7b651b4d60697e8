//! Runs a test in its own namespaces and control groups, and removes all of them at the end, whatever the test did.
//!
//! There are two processes. The outer one enforces the limit and cleans up. The inner one is PID 1 of a process
//! namespace: when it ends, the kernel ends everything that the test has started. The outer one may be killed as well.
//! The kernel then kills the inner one, and `sweep` removes the directory and the control groups at the next run.

mod control_groups;
mod idle_group;
mod inner;
mod outer;
mod scratch;

pub use control_groups::{own_groups as own_control_groups, own_unified_group};
pub use idle_group::IdleGroup;
pub use inner::run as run_inner;
pub use outer::{KILLED, Run};
pub use scratch::sweep;

/// The argument by which the outer process starts its own program as the inner one.
pub const INNER: &str = "--inner";
