//! Tests that `isolated` ends everything a test has started: at the test's limit, at a signal, and after the watching process is killed.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::isolation::{KILLED, own_control_groups, sweep};
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::process::{Process, mentioning};

const ISOLATED: &str = env!("CARGO_BIN_EXE_isolated");

const LIMIT: Duration = Duration::from_secs(20);

/// Leaves a process in another session, a mount and a network namespace behind, and hangs.
const HANGS: &str = "mount -t tmpfs reloader-left /mnt && ip netns add reloader-left || exit; setsid sh -c 'while :; do sleep 1; done' sh \"$0\" & \
                     cat /proc/self/cgroup >\"$0/groups\"; echo \"$TMPDIR\" >\"$0/scratch.new\"; \
                     mv \"$0/scratch.new\" \"$0/scratch\"; while :; do sleep 1; done";

struct Scene {
    dir: tempfile::TempDir,
    isolated: Child,
}

impl Scene {
    fn start(limit: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(ISOLATED);
        command.args([limit, "--", "sh", "-c", HANGS]).arg(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let isolated = command.spawn().unwrap();
        let scene = Scene { dir, isolated };
        until(LIMIT, "the command to have started everything", || scene.dir.path().join("scratch").exists());
        scene
    }

    fn signal(&self, signal: Signal) {
        Process::with_pid(self.isolated.id().cast_signed()).unwrap().signal(signal);
    }

    fn scratch(&self) -> PathBuf {
        std::fs::read_to_string(self.dir.path().join("scratch")).unwrap().trim().into()
    }

    /// The control groups of the command: each ends in the name of its scratch directory.
    fn groups(&self) -> Vec<PathBuf> {
        let name = self.scratch().file_name().unwrap().to_owned();
        let groups = std::fs::read_to_string(self.dir.path().join("groups")).unwrap();
        assert!(groups.contains(name.to_str().unwrap()), "{groups}");
        let found: Vec<_> =
            own_control_groups().iter().map(|own| own.join(&name)).filter(|group| group.exists()).collect();
        assert!(!found.is_empty());
        found
    }

    /// The command's mount and network namespace are invisible outside.
    fn assert_invisible_outside(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("reloader-left"), "{mounts}");
        assert!(!Path::new("/run/netns/reloader-left").exists());
    }

    fn assert_no_process(&self) {
        let left = || mentioning(self.dir.path());
        assert!(satisfied_within(LIMIT, || left().is_empty()), "{:?}", left());
    }
}

#[test]
fn test_at_its_limit_is_killed_with_everything_it_started() {
    let scene = Scene::start("15");
    scene.assert_invisible_outside();
    let groups = scene.groups();
    let Scene { dir, isolated } = scene;
    let output = isolated.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(KILLED));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("killed after its limit of 15 s"), "{stderr}");
    assert!(stderr.contains("while :; do sleep 1; done"), "{stderr}");
    assert_eq!(mentioning(dir.path()), []);
    let scratch = std::fs::read_to_string(dir.path().join("scratch")).unwrap();
    assert!(!Path::new(scratch.trim()).exists());
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

#[test]
fn signal_ends_everything_the_test_started() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut scene = Scene::start("100");
        let groups = scene.groups();
        scene.signal(signal);
        assert_eq!(scene.isolated.wait().unwrap().code(), Some(130), "{signal}");
        assert_eq!(mentioning(scene.dir.path()), [], "{signal}");
        let left: Vec<_> = [scene.scratch()].into_iter().chain(groups).filter(|path| path.exists()).collect();
        assert_eq!(left, [""; 0].map(PathBuf::from), "{signal}");
    }
}

#[test]
fn next_run_removes_leftovers_of_a_killed_run() {
    let mut scene = Scene::start("100");
    scene.assert_invisible_outside();
    let groups = scene.groups();
    scene.signal(Signal::SIGKILL);
    assert_eq!(scene.isolated.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    scene.assert_no_process();
    assert!(scene.scratch().exists(), "the killed run left nothing to remove");
    sweep();
    assert!(!scene.scratch().exists());
    assert!(satisfied_within(LIMIT, || groups.iter().all(|group| !group.exists())), "{groups:?}");
}

#[test]
fn isolated_exits_with_the_status_of_its_command() {
    let status = |script: &str| Command::new(ISOLATED).args(["20", "--", "sh", "-c", script]).status().unwrap().code();
    assert_eq!((status("exit 7"), status("kill -9 $$")), (Some(7), Some(137)));
}
