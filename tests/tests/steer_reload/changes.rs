//! The changes that cost resets with HAProxy's own reload in master-worker mode, which passes sockets and retires at once: fewer
//! shards, other bind options. Beside it the same changes here.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, info};
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{Process, mentioning};
use reloader_tests::rig::Rig;

const CLIENTS: [&str; 3] = ["127.0.0.1:8000", "127.0.0.1:8001", "[::1]:8002"];
const RATE: u32 = 3000;
const RELOADS: usize = 24;
const LIMIT: Duration = Duration::from_secs(20);

fn config(round: usize) -> Config {
    if round.is_multiple_of(2) {
        Config::new().frontend("web", &["127.0.0.1:8000 shards 4", "127.0.0.1:8001", "[::]:8002"])
    } else {
        Config::new().frontend("web", &["127.0.0.1:8000 shards 1", "127.0.0.1:8001 interface lo", "[::]:8002 v6only"])
    }
}

#[test]
fn nothing_is_lost_where_master_worker_mode_loses() {
    let _alone = netns::enter_alone();
    let ours = with_reloader();
    let plain = with_master_worker_mode();
    println!("reloader:      {}", ours.summary());
    println!("master-worker: {}", plain.summary());
    ours.assert_lossless();
    assert!(plain.summary().failed() > 0, "the load would not have seen a loss: {}", plain.summary());
}

fn with_reloader() -> Outcomes {
    let rig = Rig::with(&config(0)).start();
    let load = Load::to(CLIENTS).rate(RATE).start();
    for round in 1..=RELOADS {
        load.until_further(u64::from(RATE) / 5);
        rig.configure(&config(round));
        let receipt = rig.reload();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
    }
    load.until_further(u64::from(RATE) / 5);
    load.stop()
}

fn with_master_worker_mode() -> Outcomes {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("haproxy.cfg"), dir.path().join("stats.sock"));
    config(0).giving_socket(&socket).write(&file);
    let master = Master::start(dir.path(), &file);
    until(LIMIT, "the first worker", || info(&socket, "Pid").is_ok());
    let load = Load::to(CLIENTS).rate(RATE).start();
    for round in 1..=RELOADS {
        load.until_further(u64::from(RATE) / 5);
        config(round).giving_socket(&socket).write(&file);
        let before = master.process.children();
        master.process.signal(Signal::SIGUSR2);
        // The old one has ended: the master is done, and takes the next signal.
        until(
            LIMIT,
            "another worker",
            || matches!(master.process.children()[..], [worker] if !before.contains(&worker)),
        );
    }
    load.until_further(u64::from(RATE) / 5);
    load.stop()
}

/// HAProxy in master-worker mode. Dropped, it is ended with its workers.
struct Master<'a> {
    child: Child,
    process: Process,
    dir: &'a Path,
}

impl<'a> Master<'a> {
    fn start(dir: &'a Path, config: &Path) -> Master<'a> {
        let mut command = Command::new(HaproxyBinary::installed().path);
        command.args(["-W", "-f"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("haproxy");
        let process = Process::with_pid(child.id() as i32).expect("the master");
        Master { child, process, dir }
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        self.process.end();
        let _ = self.child.wait();
        mentioning(self.dir).iter().for_each(Process::end);
    }
}
