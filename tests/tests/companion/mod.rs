//! Runs a HAProxy that its own unit keeps in master-worker mode, with reloader beside it. Needs root to create a
//! network namespace.

use std::path::PathBuf;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::master::Master;
use reloader_tests::rig::Rig;
use reloader_tests::versions;

mod changes;
mod daemon;
mod ends;
mod reloads;
mod unit_actions;

const WEB: &str = "127.0.0.1:8000";
const LIMIT: Duration = Duration::from_secs(20);

/// How the daemon asks the master to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Cli,
    Signal,
}

/// Every version of HAProxy, with each way to reload it.
fn every_version_both_ways() -> impl Iterator<Item = (HaproxyBinary, Way)> {
    versions::all().into_iter().flat_map(|binary| [Way::Cli, Way::Signal].map(|way| (binary.clone(), way)))
}

/// HAProxy under its unit, and a daemon beside it. Fields are dropped in order: the master ends before the rig's
/// directory is removed.
struct Scene {
    master: Option<Master>,
    rig: Rig,
    binary: HaproxyBinary,
    dir: tempfile::TempDir,
    environment: Vec<(&'static str, &'static str)>,
}

impl Scene {
    /// Prepares the files. Neither HAProxy nor the daemon is started.
    fn prepare(binary: &HaproxyBinary, way: Way, config: Config, tables: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let config = config.stats_socket(&dir.path().join("stats.sock"));
        let mut setup =
            Rig::with(&config).haproxy(binary).haproxy_line("mode = \"companion\"").tables(tables).fd_store();
        if way == Way::Cli {
            setup = setup.haproxy_line(&format!("master-cli = \"{}\"", dir.path().join("master.sock").display()));
        }
        Scene { master: None, rig: setup.prepare(), binary: binary.clone(), dir, environment: Vec::new() }
    }

    fn begin(binary: &HaproxyBinary, way: Way, config: Config, tables: &str) -> Scene {
        let mut scene = Scene::prepare(binary, way, config, tables);
        scene.start_haproxy();
        scene.rig.start_daemon();
        scene
    }

    fn start_haproxy(&mut self) {
        self.master = None;
        let (cli, stats) = (self.dir.path().join("master.sock"), self.stats());
        self.master = Some(Master::start(&self.binary, &self.rig.haproxy_cfg(), &cli, &stats, &self.environment));
    }

    fn stats(&self) -> PathBuf {
        self.dir.path().join("stats.sock")
    }

    fn master(&self) -> &Master {
        self.master.as_ref().expect("HAProxy was started")
    }

    fn configure(&self, config: Config) {
        self.rig.configure(&config.stats_socket(&self.stats()));
    }
}
