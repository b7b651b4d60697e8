//! All unsafe code of this crate: what a child inherits, and system calls that no crate wraps. Each block says why it is sound.
#![expect(unsafe_code, reason = "calls of the kernel that no crate wraps safely")]

mod descriptor_table;
mod exit_info;
mod idle_memory;
mod inherit;
mod link_address;
mod socket_facts;
mod tcp_info;
mod tcx;
mod watch;

pub(crate) use descriptor_table::share_descriptors;
pub(crate) use exit_info::exit_status;
pub(crate) use idle_memory::give_back_idle_memory;
pub use inherit::{
    Inheritance, NotForChildren, end_with_this_thread, ignore_sigusr2, raise_descriptor_limit, reset_sigchld,
    start_in_control_group, start_in_network_namespace, start_in_own_session, take_passed_descriptors, unblock_signals,
};
pub(crate) use link_address::link_address;
pub(crate) use socket_facts::{
    accept_deferral, binds_absent_addresses, bound_device, network_namespace_cookie, network_namespace_of, protocol,
};
pub(crate) use tcp_info::{TcpInfo, tcp_info};
pub(crate) use tcx::{TcxHook, attach_tcx, detach_link};
pub use watch::watch;
