//! A worker that dies. The daemon in the same situation: `crash`.

use nix::sys::signal::Signal;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::sockets::{refuses, until_refused};

use super::{ByMaster, LIMIT, WEB};

/// Until its unit starts it again, the port is refused.
#[test]
fn master_worker_mode_ends_and_leaves_the_port_refused() {
    netns::enter();
    let server = ByMaster::start();
    assert!(!refuses(WEB));
    server.master.worker().unwrap().signal(Signal::SIGKILL);
    until(LIMIT, "the master to end", || !server.master.process.is_alive());
    until_refused(WEB);
}
