//! Tests what speaks against two generations of a server at once: data that both would write, and other servers on the shared ports.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;

use super::scene::{PLAIN_SERVER, WEB, prepare, service_table, setup};

const LIMIT: Duration = Duration::from_secs(30);

/// The program of redis: Debian's redis-server is a link to it, and it acts by the name by which it is called.
const REDIS: &str = "/usr/bin/redis-check-rdb";

fn table(start: &str, lines: &str) -> String {
    service_table("app", start, "overlap", WEB, lines)
}

/// A server that runs this code before it binds.
fn server(first: &str, lines: &str) -> Rig {
    let rig = prepare(setup(&table(&format!("\"/usr/bin/python3\", \"DIR/app.py\", \"{WEB}\""), lines)));
    let first = first.replace("DIR", &rig.dir().display().to_string());
    fs::write(rig.path("app.py"), format!("import fcntl, os, sys\n{first}\n{PLAIN_SERVER}")).unwrap();
    rig
}

#[track_caller]
fn assert_refused(rig: &Rig, code: &str, words: &[&str]) {
    let serving = rig.serving_pid();
    let receipt = rig.reload().expect_status(1);
    assert_eq!(receipt.at("/reason-code"), code, "{}", receipt.stdout);
    let reason = receipt.at("/reason").as_str().unwrap();
    assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    assert_eq!(rig.serving_pid(), serving);
}

fn asked_of_redis(words: &str) -> String {
    let mut client = TcpStream::connect(WEB).expect("redis");
    client.write_all(format!("{words}\r\n").as_bytes()).expect("a command");
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("an answer");
    line.trim().to_owned()
}

/// Both would append to the file, and each would know only its own part of the data.
#[test]
fn redis_with_an_append_only_file_is_not_doubled() {
    netns::enter();
    let options = "\"--bind\", \"127.0.0.1\", \"--port\", \"8080\", \"--dir\", \"DIR\", \"--appendonly\", \"yes\"";
    let start = format!("\"DIR/redis-server\", {options}, \"--logfile\", \"DIR/redis.log\"");
    let mut rig = prepare(setup(&table(&start, "")));
    assert!(Path::new(REDIS).exists(), "{REDIS} is not there: install redis-tools");
    symlink(REDIS, rig.path("redis-server")).unwrap();
    rig.start_daemon();
    assert_eq!(asked_of_redis("SET key value"), "+OK");
    assert_refused(&rig, "data-at-risk", &[".aof", "open for appending", "shared-files"]);
    assert_eq!(asked_of_redis("DBSIZE"), ":1");
    fs::read_to_string(rig.path("redis.log")).expect("the log, which is no data");
}

#[test]
fn file_that_is_locked_or_written_in_place_is_not_written_by_two() {
    netns::enter();
    let memory = format!("/dev/shm/reloader-tests-{}", std::process::id());
    for (first, file, how) in [
        ("f = open(\"DIR/a.log\", \"a\"); fcntl.flock(f, fcntl.LOCK_EX)", "a.log", "locked"),
        ("f = open(\"DIR/b\", \"a\"); fcntl.lockf(f, fcntl.LOCK_EX)", "b", "locked"),
        ("f = os.open(\"DIR\", os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX)", "", "locked"),
        ("f = open(\"MEMORY\", \"w\")", memory.as_str(), "open for writing"),
        ("f = open(\"/run/app.state\", \"w\")", "/run/app.state", "open for writing"),
    ] {
        let mut rig = server(&first.replace("MEMORY", &memory), "");
        rig.start_daemon();
        let file = rig.dir().join(file).display().to_string();
        assert_refused(&rig, "data-at-risk", &[file.trim_end_matches('/'), how]);
    }
    fs::remove_file(memory).unwrap();
}

/// The kernel is not asked to ask the file system, and the daemon waits for it no longer than for others.
#[test]
fn open_file_of_a_file_system_that_hangs_does_not_hang_the_reload() {
    netns::enter();
    let mut rig = server("f = os.open(\"DIR/mount/data\", os.O_RDWR)", "");
    let mount = rig.path("mount");
    fs::create_dir(&mount).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/hung_file_system.py");
    let mut command = Command::new("/usr/bin/python3");
    let mut hung = command.arg(script).arg(&mount).stdout(Stdio::piped()).spawn().expect("python3");
    let mut line = String::new();
    BufReader::new(hung.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    rig.start_daemon();
    assert_refused(&rig, "data-at-risk", &[&mount.join("data").display().to_string(), "open for writing"]);
    hung.kill().unwrap();
    hung.wait().unwrap();
    assert!(Command::new("umount").arg("-l").arg(&mount).status().unwrap().success());
}

/// A name that says neither that it is data nor that it is a log is for the operator to judge.
#[test]
fn file_that_is_appended_to_is_noted_unless_it_is_a_log() {
    netns::enter();
    for (lines, is_noted) in [("", true), ("shared-files = [\"DIR/events\"]", false)] {
        let mut rig = server("f = [open(\"DIR/app.log\", \"a\"), open(\"DIR/events\", \"a\")]", lines);
        rig.start_daemon();
        let receipt = rig.reload().expect_status(0);
        let notes = receipt.at("/notes").to_string();
        assert_eq!(notes.contains(&format!("append to {}", rig.path("events").display())), is_noted, "{notes}");
        assert!(!notes.contains("app.log"), "{notes}");
    }
}

#[test]
fn pid_file_of_the_old_generation_is_noted() {
    netns::enter();
    let write = "open(sys.argv[2].split(\"=\")[1], \"w\").write(str(os.getpid()))";
    let start = format!("\"/usr/bin/python3\", \"DIR/app.py\", \"{WEB}\", \"--pid=DIR/app.pid\"");
    for (lines, is_noted) in [("", true), ("pid-file = \"DIR/app.pid\"", false)] {
        let mut rig = prepare(setup(&table(&start, lines)));
        fs::write(rig.path("app.py"), format!("import os, sys\n{write}\n{PLAIN_SERVER}")).unwrap();
        rig.start_daemon();
        let receipt = rig.reload().expect_status(0);
        let notes = receipt.at("/notes").to_string();
        assert_eq!(notes.contains(&rig.path("app.pid").display().to_string()), is_noted, "{notes}");
    }
}

/// Another server, which binds with SO_REUSEPORT.
struct Other(Child);

impl Other {
    fn start(address: &str) -> Other {
        let (host, port) = address.split_once(':').unwrap();
        let script = format!(
            "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
             s.bind(('{host}', {port}))\ns.listen()\ntime.sleep(1000)\n"
        );
        let before = listening(8080).len();
        let other = Other(Command::new("/usr/bin/python3").args(["-c", &script]).spawn().expect("python3"));
        until(LIMIT, "the other server to listen", || listening(8080).len() > before);
        other
    }

    fn name(&self) -> String {
        format!("foreign listener: process {} ", self.0.id())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Without the shared port the kernel would refuse the bind.
#[test]
fn first_start_does_not_join_the_listener_of_another_server() {
    netns::enter();
    for address in [WEB, "0.0.0.0:8080"] {
        let other = Other::start(address);
        let mut rig = server("", "");
        rig.try_start_daemon().expect_status(4);
        assert!(rig.log().contains(&format!("{}(/usr/bin/python3", other.name())), "{}", rig.log());
        assert_eq!(listening(8080).len(), 1);
    }
}

#[test]
fn reload_is_refused_beside_the_listener_of_another_server() {
    netns::enter();
    let mut rig = server("", "");
    rig.start_daemon();
    rig.reload().expect_status(0);
    // The port is shared since the reload: another server of this user may bind it.
    let other = Other::start(WEB);
    assert_refused(&rig, "foreign-listener", &[&other.name(), "stop it"]);
    assert!(!rig.log().contains("is abandoned"), "a generation was started: {}", rig.log());
    drop(other);
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
}

/// HAProxy binds with SO_REUSEPORT, so a service whose port is shared could join its group.
#[test]
fn service_on_a_port_of_haproxy_does_not_start() {
    netns::enter();
    let start = format!("\"/usr/bin/python3\", \"DIR/app.py\", \"{WEB}\"");
    let mut rig = prepare(Rig::with(&Config::web(WEB)).tables(&table(&start, "")));
    fs::write(rig.path("app.py"), PLAIN_SERVER).unwrap();
    let file = rig.path("reloader.toml");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, whole.split_once("[service.app]").unwrap().0).unwrap();
    rig.start_daemon();
    let haproxy = rig.serving().unwrap();
    fs::write(&file, whole).unwrap();
    rig.restart_daemon();
    until(LIMIT, "the start to fail", || rig.log().contains("app start failed"));
    assert!(rig.log().contains(&format!("foreign listener: process {} (", haproxy.pid)), "{}", rig.log());
    assert!(!rig.log().contains("is abandoned"), "it was started: {}", rig.log());
    Load::to([WEB]).connections(50).run().assert_lossless();
    assert_eq!(listening(8080).len(), 1);
}
