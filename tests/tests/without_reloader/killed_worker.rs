//! A worker that dies. The daemon in the same situation: `crash`.

use nix::sys::signal::Signal;
use reloader_tests::poll::until;
use reloader_tests::sockets::{refuses, until_refused};

use super::{ByMaster, LIMIT, WEB, for_each_version};

/// Until its unit starts it again, the port is refused.
#[test]
fn master_worker_mode_ends_and_leaves_the_port_refused() {
    for_each_version(|binary| {
        let server = ByMaster::start(binary);
        assert!(!refuses(WEB));
        server.master.worker().unwrap().signal(Signal::SIGKILL);
        until(LIMIT, "the master to end", || !server.master.process.is_alive());
        until_refused(WEB);
    });
}
