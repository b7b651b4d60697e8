//! Tests that processes which imitate a generation are ignored. Any user can choose the command line of a process.

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

/// A process of user nobody with the command line of a generation. It is killed on drop.
struct Impostor(Child);

/// Overwrites its own command line with its last argument (fields 48 and 49 of proc_pid_stat(5)).
const SCRIPT: &str = "
import ctypes, sys, time
fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
start, end = int(fields[45]), int(fields[46])
words = sys.argv[1].replace(' ', chr(0)).encode()
ctypes.memmove(start, words.ljust(end - start, bytes(1)), end - start)
time.sleep(1000)
";

impl Impostor {
    /// Imitates the generation of this number.
    fn start(rig: &Rig, number: &str) -> Impostor {
        let file = rig.path(&format!("run/generation-{number}.cfg"));
        let words = format!("haproxy -db -f {} -f {}", rig.haproxy_cfg().display(), file.display());
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", SCRIPT, &words]).uid(NOBODY).gid(NOBODY);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let impostor = Impostor(command.spawn().expect("python3"));
        let pid = impostor.0.id();
        let cmdline = || std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        until(LIMIT, "the command line to be overwritten", || cmdline().starts_with(b"haproxy\0-db\0-f\0"));
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
fn impostors_are_ignored_and_do_not_affect_the_serving_generation() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let mut rig = Rig::with(&config).start();
    rig.reload().expect_status(0);
    let (serving, mut idle) = (rig.serving(), IdleConnections::open(IDLE, 20));
    let impostors = ["2", "1", "77", "4294967296", "18446744073709551615"].map(|number| Impostor::start(&rig, number));
    rig.kill9_daemon();
    rig.start_daemon();
    let status = rig.status();
    assert_eq!(status.at("/draining"), &serde_json::json!([]), "{}", status.stdout);
    assert_eq!(rig.serving(), serving);
    let alive = |impostor: &Impostor| Process::with_pid(impostor.0.id() as i32).is_some();
    assert!(impostors.iter().all(alive), "an impostor was signalled");
    drop(impostors);
    // Housekeeping would have removed the files by the time the next daemon answers.
    rig.kill9_daemon();
    rig.start_daemon();
    for ending in ["sock", "cfg", "log"] {
        let file = format!("run/generation-2.{ending}");
        assert!(rig.path(&file).exists(), "{file}");
    }
    let receipt = rig.reload().expect_status(0);
    assert_eq!(receipt.at("/new/generation"), 3, "the number of an impostor was continued");
    assert_eq!(idle.count_answered(), 20, "{:?}", idle.deaths());
}

/// The log of a generation reveals it where no record does.
#[test]
fn generation_without_a_record_is_found_by_its_log() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    let serving = rig.serving();
    rig.kill9_daemon();
    std::fs::remove_file(rig.path("run/generations.json")).unwrap();
    rig.start_daemon();
    assert_eq!(rig.serving(), serving);
    rig.reload().expect_status(0);
}
