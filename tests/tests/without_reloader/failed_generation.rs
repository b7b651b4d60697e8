//! A configuration that passes `haproxy -c` and whose process fails after it has bound: here by a chroot that is not there, which HAProxy
//! enters last. Up to 3.0 it has told the old process to end by then (`tell_old_pids` in `haproxy.c`).

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::Version;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{refuses, until_refused};

use super::{ByMaster, Direct, LIMIT, WEB, for_each_version};

/// The first tested version whose old process serves on.
const MENDED: Version = Version { major: 3, minor: 2 };

fn config() -> Config {
    Config::web(WEB).global("chroot /no/such/directory")
}

#[test]
fn x_and_sf_report_success_and_leave_the_port_refused_up_to_3_0() {
    for_each_version(|binary| {
        let server = Direct::start(binary);
        server.configure(config());
        assert!(server.check().status.success() && !refuses(WEB));
        let said = server.reload();
        assert_eq!(said.status.success(), binary.version < MENDED, "{said:?}");
        if binary.version >= MENDED {
            Load::to([WEB]).connections(50).run().assert_lossless();
            return;
        }
        until_refused(WEB);
        until(LIMIT, "the old process to end", || !server.haproxy.process.is_alive());
    });
}

/// The master then ends as well, once the old worker has.
#[test]
fn master_worker_mode_leaves_the_port_refused_up_to_3_0() {
    for_each_version(|binary| {
        let server = ByMaster::start(binary);
        server.configure(config());
        assert!(binary.check(&server.config()).status.success() && !refuses(WEB));
        server.master.process.signal(Signal::SIGUSR2);
        until(LIMIT, "the new worker to fail", || server.master.log().contains("Cannot chroot"));
        if binary.version >= MENDED {
            Load::to([WEB]).connections(50).run().assert_lossless();
            return;
        }
        until_refused(WEB);
    });
}

#[test]
fn the_daemon_keeps_the_old_generation_serving() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let serving = rig.serving();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    rig.configure(&config());
    let answer = rig.reload().expect_status(1);
    assert_eq!((answer.at("/result"), answer.at("/new")), (&"failed".into(), &().into()));
    assert!(answer.at("/server-log").to_string().contains("chroot"), "{}", answer.stdout);
    assert_eq!(rig.serving(), serving);
    load.until_further(200);
    load.stop().assert_lossless();
}
