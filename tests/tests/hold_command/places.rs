//! Where a hold is: in which network namespace, and in which directory it is on record.

use std::os::unix::fs::PermissionsExt as _;

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::service::{Kind, Service};

use reloader_tests::holding::{Holding, WEB, assert_held};

/// A namespace with a name, for as long as this lives.
struct Named(String);

impl Named {
    fn new() -> Named {
        let name = format!("hold-{}", std::process::id());
        netns::ip(&["netns", "add", &name]);
        netns::ip(&["-netns", &name, "link", "set", "lo", "up"]);
        Named(name)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = std::fs::File::open(self.path()).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// SYNs are held there, and the command runs here.
#[test]
#[ignore = "alone: loads"]
fn another_namespace() {
    netns::enter();
    let holding = Holding::new();
    let there = Named::new();
    let service = there.run(|| Service::started(Kind::Perl, holding.rig.dir(), &[WEB]));
    let load = there.run(|| Load::to([WEB]).rate(400).start());
    load.until_started(200);
    let script = format!(
        "readlink /proc/self/ns/net >{}; ip netns exec {} {}",
        holding.rig.path("seen").display(),
        there.0,
        service.command("restart").join(" ")
    );
    let args = ["--json", "--netns", &there.path(), "--listen", WEB];
    let answer = holding.run(&args, ["sh", "-c", &script]).expect_status(0);
    assert_held(&answer);
    assert!(answer.at("/syns/held").as_u64() > Some(0), "{}", answer.stdout);
    load.until_further(200);
    load.stop().assert_lossless();
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string();
    assert_eq!(std::fs::read_to_string(holding.rig.path("seen")).unwrap().trim(), here);
    there.run(|| drop(service));
    holding.assert_gone();
}

#[test]
fn no_namespace() {
    netns::enter();
    let holding = Holding::new();
    let file = holding.rig.path("reloader.toml").display().to_string();
    for path in ["/no/such/namespace", &file, "/proc/self/ns/mnt"] {
        let answer = holding.run(&["--netns", path, "--listen", WEB], ["true"]).expect_status(125);
        assert!(answer.stderr.contains(&format!("--netns {path}: ")), "{}", answer.stderr);
    }
}

/// A hold is often the first to need the runtime directory. The daemon that comes later has its control socket there, which
/// others than root may use.
#[test]
fn a_runtime_directory_that_nobody_has_made_yet() {
    netns::enter();
    let mut holding = Holding::new();
    assert!(!holding.rig.path("run").exists());
    let service = Service::started(Kind::Perl, holding.rig.dir(), &[WEB]);
    assert_held(&holding.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0));
    drop(service);
    holding.assert_gone();
    let mode = |name| std::fs::metadata(holding.rig.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/holds")), (0o755, 0o700));
    holding.rig.start_daemon();
}

/// Beside those of the daemon, whose directory it is: a hold makes none.
#[test]
fn its_receipt_is_in_the_journal_where_there_is_one() {
    netns::enter();
    let mut holding = Holding::new();
    let service = Service::started(Kind::Perl, holding.rig.dir(), &[WEB]);
    assert_held(&holding.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0));
    let state = holding.rig.path("state");
    assert!(!state.exists());
    std::fs::create_dir(&state).unwrap();
    let answer = holding.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0);
    let mode = std::fs::metadata(state.join("receipts.jsonl")).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode, holding.rig.history().json), (0o640, answer.json.clone()));
    drop(service);
    holding.assert_gone();

    let told = holding.rig.run(&["history"]).expect_status(0);
    assert!(told.stdout.contains("hold") && told.stdout.contains("SYNs held"), "{}", told.stdout);
    holding.rig.start_daemon();
    assert_eq!(holding.rig.history().at("/1/id"), answer.at("/id"));

    std::fs::remove_file(state.join("receipts.jsonl")).unwrap();
    std::fs::create_dir(state.join("receipts.jsonl")).unwrap();
    let refused = holding.run(&["--listen", "127.0.0.1:8081", "--max", "300ms"], ["true"]).expect_status(124);
    assert!(!refused.stderr.contains("receipts.jsonl"), "{}", refused.stderr);
}

/// Who may write to it could name any process as the guard that is to be told.
#[test]
fn a_runtime_directory_that_others_may_write_to() {
    netns::enter();
    let holding = Holding::new();
    let run = holding.rig.path("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    let answer = holding.run(&["--listen", WEB], ["true"]).expect_status(125);
    assert!(answer.stderr.contains("others own it or may write to it"), "{}", answer.stderr);
    let answer = holding.rig.run(&["release"]).expect_status(78);
    assert!(answer.stderr.contains("others own it or may write to it"), "{}", answer.stderr);
}
