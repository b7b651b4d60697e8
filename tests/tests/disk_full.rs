//! Fills the disk: a reload is done although its receipt cannot be stored, and reports that.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;

const WEB: &str = "127.0.0.1:8080";

#[test]
fn reload_completes_and_reports_that_its_receipt_was_not_stored() {
    netns::enter();
    // A receipt of 101 listeners does not fit into the rest of the last page, so that a part of it is written.
    let mut rig = Rig::with(&Config::web("127.0.0.1:8080-8180")).prepare();
    let _mount = SmallDisk::mount(&rig.path("state"));
    rig.start_daemon();
    let load = Load::to([WEB]).start();
    let filler = fill(&rig.path("state/filler"));
    let answer = rig.reload().expect_status(0);
    assert_eq!(*answer.at("/result"), "proven");
    assert!(answer.stderr.contains("the receipt was not stored"), "{}", answer.stderr);
    assert!(rig.warnings().contains("the receipt was not stored"));
    assert_eq!(rig.history().stdout.lines().count(), 1, "only the receipt of the start, and no partial line");

    filler.set_len(0).unwrap();
    let answer = rig.reload().expect_status(0);
    assert_eq!((rig.history().at("/0/id"), answer.stderr.as_str()), (answer.at("/id"), ""));
    load.stop().assert_lossless();
}

/// A file system of 256 KiB in the calling thread's own mount namespace, which is removed with the thread.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> SmallDisk {
        unshare(CloneFlags::CLONE_NEWNS).expect("unshare(CLONE_NEWNS)");
        run("mount", &["--make-rprivate", "/"]);
        std::fs::create_dir(path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=256k,mode=755", "small", path.to_str().unwrap()]);
        SmallDisk(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A directory with a mount on it cannot be removed. The daemon may still use the mount.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn fill(path: &Path) -> File {
    let mut file = File::create(path).unwrap();
    while file.write(&[b'x'; 100]).is_ok_and(|count| count > 0) {}
    file
}
