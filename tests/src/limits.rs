//! Limits of the test process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raise the soft limit of open files to the hard one. HAProxy derives its maxconn from it, so configurations for tests
/// state theirs.
pub fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("setrlimit");
}
