//! O_NONBLOCK belongs to the open file, which a server shares with its custody: whoever passes the socket on may change it.

use std::fs;
use std::os::fd::OwnedFd;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

const WEB: &str = "127.0.0.1:8080";

/// A duplicate of a process's listener on port 8080.
fn duplicate(process: Process) -> OwnedFd {
    let inode = listening(8080).into_iter().next().expect("a listener");
    let target = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).unwrap();
    let number =
        descriptors.flatten().find(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*target));
    let number = number.expect("the listener is its own").file_name().to_str().unwrap().parse().unwrap();
    let pidfd = pidfd_open(Pid::from_raw(process.pid).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).unwrap()
}

fn is_nonblocking(socket: &OwnedFd) -> bool {
    fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK)
}

/// What systemd does to the sockets of a socket unit, whenever it starts the service.
fn change(socket: &OwnedFd) {
    fcntl_setfl(socket, fcntl_getfl(socket).unwrap() ^ OFlags::NONBLOCK).unwrap();
}

#[test]
fn haproxys_are_given_back_at_each_start_of_the_daemon() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let socket = duplicate(rig.serving().unwrap());
    assert!(is_nonblocking(&socket));
    for _ in 0..2 {
        rig.kill9_daemon();
        change(&socket);
        rig.start_daemon();
        assert!(is_nonblocking(&socket));
        let notes = rig.last_receipt()["notes"].to_string();
        assert!(notes.contains("O_NONBLOCK of 1 sockets"), "{notes}");
        Load::to([WEB]).connections(10).run().assert_lossless();
    }
    // Nothing to say where nothing was changed.
    rig.restart_daemon();
    assert_eq!(rig.last_receipt()["notes"], serde_json::json!([]));
}

/// One that waits in accept(2), and one that does not.
#[test]
fn those_of_other_servers_are_what_they_were() {
    netns::enter();
    let script = "import select, socket, sys\ns = socket.socket(fileno=3)\ns.setblocking(sys.argv[1] == 'waits')\n\
                  while True:\n    sys.argv[1] == 'waits' or select.select([s], [], [])\n    s.accept()[0].close()\n";
    for (manner, nonblocking) in [("waits", false), ("polls", true)] {
        let table = format!(
            "[service.given]\nstart = [\"/usr/bin/python3\", \"DIR/given.py\", \"{manner}\"]\nsockets = \"listen-fds\"\nlisten = [\"{WEB}\"]\n"
        );
        let mut rig = Rig::with(&Config::new()).without_haproxy().tables(&table).prepare();
        fs::write(rig.path("given.py"), script).unwrap();
        rig.start_daemon();
        let socket = duplicate(rig.serving().unwrap());
        assert_eq!(is_nonblocking(&socket), nonblocking, "{manner}");
        rig.restart_daemon();
        assert_eq!(is_nonblocking(&socket), nonblocking, "{manner}");
        rig.kill9_daemon();
        change(&socket);
        rig.start_daemon();
        assert_eq!(is_nonblocking(&socket), nonblocking, "{manner}");
        rig.run(&["stop"]).expect_status(0);
    }
}
