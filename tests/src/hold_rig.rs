//! Runs `reloader hold` in a directory with a configuration and without a daemon, and checks what it leaves.

use crate::config::Config;
use crate::footprint::Footprint;
use crate::rig::{Answer, Pending, Rig};
use serde_json::Value;

/// The address of most tests' servers.
pub const WEB: &str = "127.0.0.1:8080";

/// `reloader hold` with its runtime directory, which does not exist yet.
pub struct HoldRig {
    /// The rig that has the files. Its runtime directory is `run`.
    pub rig: Rig,
    before: Footprint,
}

impl HoldRig {
    /// A rig with the default configuration.
    pub fn new() -> HoldRig {
        HoldRig::with("")
    }

    /// A rig with further tables in reloader.toml.
    pub fn with(tables: &str) -> HoldRig {
        let rig = Rig::with(&Config::web(WEB)).tables(tables).prepare();
        let before = Footprint::take(rig.dir());
        HoldRig { rig, before }
    }

    /// Starts `hold ARGS -- CMD`.
    pub fn spawn<W: AsRef<str>>(&self, args: &[&str], command: impl AsRef<[W]>) -> Pending {
        let words = command.as_ref().iter().map(AsRef::as_ref);
        let all: Vec<&str> = ["hold"].into_iter().chain(args.iter().copied()).chain(["--"]).chain(words).collect();
        self.rig.spawn(&all)
    }

    /// Runs `hold ARGS -- CMD` to its end.
    #[track_caller]
    pub fn run<W: AsRef<str>>(&self, args: &[&str], command: impl AsRef<[W]>) -> Answer {
        self.spawn(args, command).wait()
    }

    /// Runs a command of reloader as root with fewer capabilities: `-net_raw,-net_admin`.
    #[track_caller]
    pub fn run_bounded(&self, bounding: &str, args: &[&str]) -> Answer {
        self.rig.run_under(&["setpriv", "--bounding-set", bounding], args)
    }

    /// Panics unless nothing is left: no program, filter, process or registry entry.
    #[track_caller]
    pub fn assert_gone(&self) {
        self.before.assert_unchanged();
        assert_eq!(self.records(), Vec::<Value>::new());
    }

    /// The entries in the hold registry.
    pub fn records(&self) -> Vec<Value> {
        let files = std::fs::read_dir(self.rig.path("run/holds")).into_iter().flatten().flatten();
        files.filter_map(|file| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()).collect()
    }
}

/// Panics with the command's output unless every listener of the receipt was held and proven.
#[track_caller]
pub fn assert_held(answer: &Answer) {
    let listeners = answer.at("/listeners").as_array().cloned().unwrap_or_default();
    let held = !listeners.is_empty() && listeners.iter().all(|listener| listener["rung"] == "held-ebpf");
    assert!(answer.at("/result") == "proven" && held, "{}{}", answer.stdout, answer.stderr);
    assert_eq!(answer.at("/lost/undrained"), 0, "{}", answer.stdout);
}
