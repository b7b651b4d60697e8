//! Measures HAProxy's own reload where it loses connections, and the daemon in the same situation. The table of README.md names these tests:
//! what it says of HAProxy is what they have seen, with each version. A clean reload is in `baseline`: there HAProxy loses nothing either.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::{Haproxy, HaproxyBinary};
use reloader_tests::master::Master;
use reloader_tests::{netns, versions};
use tempfile::TempDir;

mod failed_generation;
mod failed_transfer;
mod killed_worker;
mod taken_port;

const WEB: &str = "127.0.0.1:8000";
const LIMIT: Duration = Duration::from_secs(20);

/// Each version, in a network namespace of its own.
fn for_each_version(measure: fn(&HaproxyBinary)) {
    for binary in versions::all() {
        netns::enter();
        println!("{binary}");
        measure(&binary);
    }
}

/// HAProxy as `-x SOCKET -sf PID` reloads it.
struct Direct {
    binary: HaproxyBinary,
    dir: TempDir,
    haproxy: Haproxy,
}

impl Direct {
    fn start(binary: &HaproxyBinary) -> Direct {
        let dir = tempfile::tempdir().unwrap();
        Config::web(WEB).exposing_stats_socket(&dir.path().join("stats.sock")).write(&dir.path().join("haproxy.cfg"));
        let haproxy = binary.daemonize(&dir.path().join("haproxy.cfg"), &[]).unwrap();
        Direct { binary: binary.clone(), dir, haproxy }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("haproxy.cfg")
    }

    fn configure(&self, config: Config) {
        config.exposing_stats_socket(&self.dir.path().join("stats.sock")).write(&self.config());
    }

    fn check(&self) -> Output {
        self.binary.check(&self.config())
    }

    /// The new process goes to the background and ends with the test.
    fn reload(&self) -> Output {
        let mut command = Command::new(&self.binary.path);
        command.arg("-D").arg("-f").arg(self.config()).arg("-x").arg(self.dir.path().join("stats.sock"));
        command.args(["-sf", &self.haproxy.process.pid.to_string()]).output().expect("running haproxy")
    }
}

/// HAProxy in master-worker mode, which SIGUSR2 reloads.
struct ByMaster {
    master: Master,
    dir: TempDir,
}

impl ByMaster {
    fn start(binary: &HaproxyBinary) -> ByMaster {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (config, cli, stats) = (path("haproxy.cfg"), path("master.sock"), path("stats.sock"));
        Config::web(WEB).exposing_stats_socket(&stats).write(&config);
        let master = Master::start(binary, &config, &cli, &stats, &[]);
        ByMaster { master, dir }
    }

    fn configure(&self, config: Config) {
        config.exposing_stats_socket(&self.dir.path().join("stats.sock")).write(&self.config());
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("haproxy.cfg")
    }
}
