//! The rig: helpers for the integration tests, the demo and the benchmarks. Functions panic with a sentence where a
//! test could not go on.
#![expect(clippy::disallowed_methods, reason = "the rig starts programs and waits for them; no daemon's loop is here")]

pub mod bench;
pub mod blocked_call;
pub mod booted;
pub mod cargo;
pub mod config;
pub mod confine;
pub mod container;
pub mod documents;
pub mod footprint;
pub mod guest;
pub mod haproxy;
pub mod hold_rig;
pub mod idle;
pub mod isolation;
pub mod kernels;
pub mod limits;
pub mod load;
pub mod master;
pub mod netns;
pub mod network;
pub mod packet;
pub mod plain;
pub mod poll;
pub mod probe;
pub mod process;
pub mod proofs;
pub mod quic;
pub mod receipt;
pub mod rig;
pub mod schema;
pub mod script;
pub mod servers;
pub mod service;
pub mod sockets;
pub mod tier;
pub mod versions;
pub mod waiting;
pub mod wrapper;
