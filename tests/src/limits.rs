//! Changes the limits and capabilities of the test process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Raises the soft limit of open files to the hard one. HAProxy derives its maxconn from this limit, so configurations
/// for tests set their own.
pub fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
}

/// Keeps only these capabilities on the calling thread, for the rest of its life.
pub fn keep_only(capabilities: CapabilitySet) {
    let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).expect("capset");
}
