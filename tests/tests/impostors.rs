//! Processes of other users that look like generations: their command line is theirs to choose.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";
const LIMIT: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// A process of user nobody that is called like a generation. Dropped, it is ended.
struct Impostor(Child);

/// Overwrites its own arguments, of which the last is what it wants to be called (fields 48 and 49 of proc_pid_stat(5)).
const SCRIPT: &str = "
import ctypes, sys, time
fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
start, end = int(fields[45]), int(fields[46])
words = sys.argv[1].replace(' ', chr(0)).encode()
ctypes.memmove(start, words.ljust(end - start, bytes(1)), end - start)
time.sleep(1000)
";

impl Impostor {
    fn of(rig: &Rig, number: &str) -> Impostor {
        let file = rig.path(&format!("run/generation-{number}.cfg"));
        let words = format!("haproxy -db -f {} -f {}", rig.haproxy_cfg().display(), file.display());
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", SCRIPT, &words]).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let impostor = Impostor(command.spawn().expect("python3"));
        let pid = impostor.0.id();
        let cmdline = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        until(LIMIT, "its command line to be another", || cmdline().starts_with(b"haproxy\0-db\0-f\0"));
        impostor
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn they_are_not_believed_and_cost_the_serving_generation_nothing() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let mut rig = Rig::with(&config).start();
    rig.reload().expect_status(0);
    let (serving, mut idle) = (rig.serving(), IdleConnections::open(IDLE, 20));
    let impostors = ["2", "1", "77", "4294967296", "18446744073709551615"].map(|number| Impostor::of(&rig, number));
    rig.kill9_daemon();
    rig.start_daemon();
    let status = rig.status();
    assert_eq!(status.at("/draining"), &serde_json::json!([]), "{}", status.stdout);
    assert_eq!(rig.serving(), serving);
    let alive = |impostor: &Impostor| Process::with_pid(impostor.0.id() as i32).is_some();
    assert!(impostors.iter().all(alive), "none was signalled");
    drop(impostors);
    // What a tick would clean up is cleaned up by then.
    rig.kill9_daemon();
    rig.start_daemon();
    for ending in ["sock", "cfg", "log"] {
        let file = format!("run/generation-2.{ending}");
        assert!(rig.path(&file).exists(), "{file}");
    }
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/new/generation"), 3, "no number of theirs was counted on from");
    assert_eq!(idle.count_answered(), 20, "{:?}", idle.deaths());
}

/// A generation that no record knows is found by its log all the same.
#[test]
fn a_generation_without_a_record_is_found() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let serving = rig.serving();
    rig.kill9_daemon();
    std::fs::remove_file(rig.path("run/generations.json")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving(), serving);
    rig.reload().expect_status(0);
}
