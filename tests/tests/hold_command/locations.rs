//! Checks in which network namespace a hold is made, and in which directory it is recorded.

use std::os::unix::fs::PermissionsExt as _;

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::service::{Kind, Service};

use reloader_tests::hold_rig::{HoldRig, WEB, assert_held};

/// A named network namespace, which is removed with this value.
struct NamedNamespace(String);

impl NamedNamespace {
    fn new() -> NamedNamespace {
        let name = format!("hold-{}", std::process::id());
        netns::ip(&["netns", "add", &name]);
        netns::ip(&["-netns", &name, "link", "set", "lo", "up"]);
        NamedNamespace(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&std::fs::File::open(self.path()).unwrap(), work)
    }
}

impl Drop for NamedNamespace {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// SYNs are held in the other namespace, and the command runs in this one.
#[test]
#[ignore = "alone: loads"]
fn hold_in_another_namespace_runs_the_command_in_this_one() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let other = NamedNamespace::new();
    let service = other.run(|| Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]));
    let load = other.run(|| Load::to([WEB]).rate(400).start());
    load.until_started(200);
    let script = format!(
        "readlink /proc/self/ns/net >{}; ip netns exec {} {}",
        hold_rig.rig.path("seen").display(),
        other.0,
        service.command("restart").join(" ")
    );
    let args = ["--json", "--netns", &other.path(), "--listen", WEB];
    let answer = hold_rig.run(&args, ["sh", "-c", &script]).expect_status(0);
    assert_held(&answer);
    assert!(answer.at("/syns/held").as_u64() > Some(0), "{}", answer.stdout);
    load.until_further(200);
    load.stop().assert_lossless();
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string();
    assert_eq!(std::fs::read_to_string(hold_rig.rig.path("seen")).unwrap().trim(), own);
    other.run(|| drop(service));
    hold_rig.assert_gone();
}

#[test]
fn invalid_namespace_exits_with_125() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let file = hold_rig.rig.path("reloader.toml").display().to_string();
    for path in ["/no/such/namespace", &file, "/proc/self/ns/mnt"] {
        let answer = hold_rig.run(&["--netns", path, "--listen", WEB], ["true"]).expect_status(125);
        assert!(answer.stderr.contains(&format!("--netns {path}: ")), "{}", answer.stderr);
    }
}

/// A hold is often the first to need the runtime directory. A daemon that comes later has its control socket in it,
/// which other users than root may use.
#[test]
fn missing_runtime_directory_is_created_so_that_a_daemon_can_use_it() {
    netns::enter();
    let mut hold_rig = HoldRig::new();
    assert!(!hold_rig.rig.path("run").exists());
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    assert_held(&hold_rig.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0));
    drop(service);
    hold_rig.assert_gone();
    let mode = |name| std::fs::metadata(hold_rig.rig.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/holds")), (0o755, 0o700));
    hold_rig.rig.start_daemon();
}

/// A hold stores its receipt beside those of the daemon, but does not create the daemon's directory.
#[test]
fn receipt_is_stored_only_if_a_journal_directory_exists() {
    netns::enter();
    let mut hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    assert_held(&hold_rig.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0));
    let state = hold_rig.rig.path("state");
    assert!(!state.exists());
    std::fs::create_dir(&state).unwrap();
    let answer = hold_rig.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0);
    let mode = std::fs::metadata(state.join("receipts.jsonl")).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode, hold_rig.rig.history().json), (0o640, answer.json.clone()));
    drop(service);
    hold_rig.assert_gone();

    let history = hold_rig.rig.run(&["history"]).expect_status(0);
    assert!(history.stdout.contains("hold") && history.stdout.contains("SYNs held"), "{}", history.stdout);
    hold_rig.rig.start_daemon();
    assert_eq!(hold_rig.rig.history().at("/1/id"), answer.at("/id"));

    std::fs::remove_file(state.join("receipts.jsonl")).unwrap();
    std::fs::create_dir(state.join("receipts.jsonl")).unwrap();
    let refused = hold_rig.run(&["--listen", "127.0.0.1:8081", "--max", "300ms"], ["true"]).expect_status(124);
    assert!(!refused.stderr.contains("receipts.jsonl"), "{}", refused.stderr);
}

/// A user who may write to it could name any process as the guard that is to be signalled.
#[test]
fn runtime_directory_writable_by_others_is_refused() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let run = hold_rig.rig.path("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let answer = hold_rig.run(&["--listen", WEB], ["true"]).expect_status(125);
    assert!(answer.stderr.contains("other users own it or may write to it"), "{}", answer.stderr);
    let answer = hold_rig.rig.run(&["release"]).expect_status(78);
    assert!(answer.stderr.contains("other users own it or may write to it"), "{}", answer.stderr);
}
