//! O_NONBLOCK belongs to the open file, which a server shares with its custody: a service manager that passes the socket may change it.

use std::fs;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

const WEB: &str = "127.0.0.1:8080";
const LIMIT: Duration = Duration::from_secs(20);

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
        assert!(notes.contains("O_NONBLOCK was set again on 127.0.0.1:8080"), "{notes}");
        Load::to([WEB]).connections(10).run().assert_lossless();
    }
    // Nothing to say where nothing was changed.
    rig.restart_daemon();
    assert_eq!(rig.last_receipt()["notes"], serde_json::json!([]));
}

/// Its threads sit in accept(2) already, because of clients that came meanwhile.
#[test]
fn a_haproxy_that_hangs_for_want_of_it_is_woken() {
    netns::enter();
    for threads in [1, 2] {
        let mut rig = Rig::with(&Config::web(WEB).global(&format!("nbthread {threads}"))).start();
        let serving = rig.serving().unwrap();
        let socket = duplicate(serving);
        rig.kill9_daemon();
        change(&socket);
        let stuck = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", serving.pid)).unwrap().flatten();
            let call = |task: fs::DirEntry| fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            // accept4 on x86-64 and on aarch64.
            tasks.map(call).filter(|call| call.starts_with("288 ") || call.starts_with("242 ")).count()
        };
        let mut clients = Vec::new();
        until(LIMIT, "HAProxy's threads to wait in accept", || {
            // Which of them a client meets is left to chance.
            clients.push(TcpStream::connect(WEB).unwrap());
            stuck() == threads
        });
        rig.start_daemon();
        until(LIMIT, "all to be woken", || stuck() == 0);
        assert_eq!(rig.serving(), Some(serving));
        Load::to([WEB]).connections(10).run().assert_lossless();
        assert_eq!(rig.reload().expect_status(0).at("/result"), "proven");
        rig.run(&["stop"]).expect_status(0);
    }
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
        if nonblocking {
            change(&socket);
        }
        rig.start_daemon();
        assert_eq!(is_nonblocking(&socket), nonblocking, "{manner}");
        rig.run(&["stop"]).expect_status(0);
    }
}

/// A server may set it when it is ready already.
#[test]
fn one_that_was_set_late_is_on_record() {
    netns::enter();
    let script = "import select, socket, time\ns = socket.socket(fileno=3)\ns.setblocking(True)\nselect.select([s], [], [])\n\
                  s.accept()[0].close()\ns.setblocking(False)\nwhile True:\n    select.select([s], [], [])\n    s.accept()[0].close()\n";
    let table = format!(
        "[service.given]\nstart = [\"/usr/bin/python3\", \"DIR/given.py\"]\nsockets = \"listen-fds\"\nlisten = [\"{WEB}\"]\n"
    );
    let mut rig = Rig::with(&Config::new()).without_haproxy().tables(&table).prepare();
    fs::write(rig.path("given.py"), script).unwrap();
    rig.start_daemon();
    let socket = duplicate(rig.serving().unwrap());
    let _client = TcpStream::connect(WEB).unwrap();
    until(LIMIT, "the flag", || is_nonblocking(&socket));
    let recorded = || fs::read_to_string(rig.path("run/services/given/generations.json")).unwrap_or_default();
    let inode = listening(8080).into_iter().next().unwrap().to_string();
    until(LIMIT, "it to be on record", || recorded().contains(&inode));
    rig.kill9_daemon();
    change(&socket);
    rig.start_daemon();
    assert!(is_nonblocking(&socket));
}
