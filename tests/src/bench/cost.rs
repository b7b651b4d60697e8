//! Compares the time of a reload by reloader with the time of HAProxy's own reload of the same configuration, without load.
//!
//! Each round reloads once by each of them, so that a slow moment of the machine affects all. HAProxy alone runs in a network namespace of its
//! own: its sockets are not listed where reloader asks the kernel.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::figures::micros;
use crate::config::Config;
use crate::haproxy::{HaproxyBinary, Version, runtime};
use crate::master::Master;
use crate::netns;
use crate::process::Process;
use crate::rig::Rig;

const FIRST_PORT: u16 = 5_000;
const END: Duration = Duration::from_secs(20);
/// The first version whose master answers `reload` after the new worker is ready.
const SYNCHRONOUS: Version = Version { major: 2, minor: 7 };

/// How the listeners are carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Each listener is passed, as by `-x SOCKET -sf PID`.
    Passed,
    /// SYNs are held, because `noreuseport` prevents that two processes listen. HAProxy alone: `-sf PID`.
    Held,
}

impl std::str::FromStr for Change {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Change> {
        serde_json::from_value(Value::from(word)).with_context(|| format!("`{word}` is neither passed nor held"))
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// How the listeners are carried over.
    pub change: Change,
    /// The number of listeners, from 1 to 3,000.
    pub listeners: u16,
    /// The number of reloads by each.
    pub rounds: u32,
}

/// The times of a case, in the order of the rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Costs {
    /// Of `reloader reload`, from its start to its exit.
    pub reloader_us: Vec<u64>,
    /// Of `haproxy -D`, from its start to its exit.
    pub haproxy_us: Vec<u64>,
    /// Of `reload` on a master's CLI, until it answers. Empty before HAProxy 2.7, and for a held change.
    pub master_us: Vec<u64>,
    /// The steps of reloader's reloads, as their receipts name them: one list for each round.
    pub phases_us: Vec<Vec<(String, u64)>>,
    /// The resident memory of the idle daemon before the first reload, in KiB.
    pub idle_kib: u64,
    /// The same after the last reload.
    pub idle_after_kib: u64,
}

/// Measures one case. The calling process must be PID 1 of a process namespace, with the /proc of that namespace.
///
/// # Errors
/// If a reload failed or was not proven.
pub fn compare(case: Case) -> Result<Costs> {
    ensure!(std::process::id() == 1, "not PID 1: run it by `unshare --fork --pid --mount-proc`");
    let own = namespace()?;
    let mut plain = netns::run_in(&own, || Alone::start(case))?;
    let master = match case.change {
        Change::Passed if plain.binary.version >= SYNCHRONOUS => Some((namespace()?, plain.dir.path())),
        _ => None,
    };
    let master = master.map(|(namespace, dir)| netns::run_in(&namespace, || start_master(case, dir)));
    netns::enter();
    let rig = Rig::with(&config(case)).tables(tables(case.change)).start();
    let mut costs = Costs { idle_kib: resident_kib(rig.daemon_process())?, ..Costs::default() };
    for _ in 0..case.rounds {
        costs.reloader_us.push(reload_by_reloader(&rig)?);
        costs.haproxy_us.push(netns::run_in(&own, || plain.reload())?);
        if let Some((_master, cli)) = &master {
            costs.master_us.push(reload_by_master(cli)?);
        }
    }
    costs.idle_after_kib = resident_kib(rig.daemon_process())?;
    let history = rig.history();
    let receipts = history.json.as_array().cloned().unwrap_or_else(|| vec![history.json.clone()]);
    let reloads = receipts.iter().filter(|receipt| receipt["kind"] == "reload");
    costs.phases_us = reloads.map(|receipt| phases(&receipt["phases-us"])).collect();
    Ok(costs)
}

/// A network namespace with `lo` up, which exists as long as it is open.
fn namespace() -> Result<File> {
    let entered = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns::enter();
            File::open("/proc/thread-self/ns/net")
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    entered.context("the network namespace")
}

fn config(case: Case) -> Config {
    let config = Config::web(&format!("127.0.0.1:{FIRST_PORT}-{}", FIRST_PORT + case.listeners - 1));
    match case.change {
        Change::Passed => config,
        Change::Held => config.global("noreuseport"),
    }
}

fn tables(change: Change) -> &'static str {
    match change {
        Change::Passed => "",
        Change::Held => "[reload]\nstrategy = \"hold\"\n",
    }
}

fn reload_by_reloader(rig: &Rig) -> Result<u64> {
    let old = rig.serving().context("a serving generation")?;
    let mut command = rig.reloader(&["reload"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let took = timed(command)?;
    old.until_gone(END);
    Ok(took)
}

/// The time of a command, which must succeed.
fn timed(mut command: Command) -> Result<u64> {
    let began = Instant::now();
    let status = command.status().with_context(|| format!("{command:?}"))?;
    let took = began.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(micros(took))
}

fn phases(phases: &Value) -> Vec<(String, u64)> {
    let phases = phases.as_object().into_iter().flatten();
    phases.filter_map(|(name, time)| Some((name.clone(), time.as_u64()?))).collect()
}

fn resident_kib(process: Process) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

/// A HAProxy that is reloaded by nothing but its own command line.
struct Alone {
    case: Case,
    binary: HaproxyBinary,
    dir: tempfile::TempDir,
    serving: Process,
}

impl Alone {
    fn start(case: Case) -> Result<Alone> {
        let dir = tempfile::tempdir()?;
        config(case).exposing_stats_socket(&dir.path().join("stats.sock")).write(&dir.path().join("haproxy.cfg"));
        let binary = HaproxyBinary::installed();
        timed(Alone::command(&binary, dir.path()))?;
        let serving = Alone::running(dir.path())?;
        Ok(Alone { case, binary, dir, serving })
    }

    fn command(binary: &HaproxyBinary, dir: &Path) -> Command {
        let mut command = Command::new(&binary.path);
        command.arg("-D").arg("-f").arg(dir.join("haproxy.cfg")).arg("-p").arg(dir.join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn running(dir: &Path) -> Result<Process> {
        let pid = fs::read_to_string(dir.join("pid"))?.trim().parse().context("the pid file")?;
        Process::with_pid(pid).with_context(|| format!("haproxy {pid} is gone already"))
    }

    fn reload(&mut self) -> Result<u64> {
        let mut command = Alone::command(&self.binary, self.dir.path());
        if self.case.change == Change::Passed {
            command.arg("-x").arg(self.dir.path().join("stats.sock"));
        }
        command.arg("-sf").arg(self.serving.pid.to_string());
        let took = timed(command)?;
        let new = Alone::running(self.dir.path())?;
        std::mem::replace(&mut self.serving, new).until_gone(END);
        Ok(took)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.serving.end();
    }
}

fn start_master(case: Case, dir: &Path) -> (Master, std::path::PathBuf) {
    let path = |name: &str| dir.join(name);
    config(case).exposing_stats_socket(&path("worker.sock")).write(&path("master.cfg"));
    let cli = path("master.sock");
    let master = Master::start(&HaproxyBinary::installed(), &path("master.cfg"), &cli, &path("worker.sock"), &[]);
    (master, cli)
}

fn reload_by_master(cli: &Path) -> Result<u64> {
    let began = Instant::now();
    let answer = runtime(cli, "reload")?;
    let took = began.elapsed();
    if !answer.contains("Success=1") {
        bail!("the master's CLI answered: {answer}");
    }
    Ok(micros(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_read_from_its_name() {
        assert_eq!("passed".parse::<Change>().unwrap(), Change::Passed);
        assert_eq!("held".parse::<Change>().unwrap(), Change::Held);
        assert!("steered".parse::<Change>().unwrap_err().to_string().contains("neither passed nor held"));
    }

    #[test]
    fn phases_that_were_not_reached_are_left_out() {
        let phases = phases(&serde_json::json!({"plan": 3, "start": 40, "hold": null}));
        assert_eq!(phases, [("plan".to_owned(), 3), ("start".to_owned(), 40)]);
    }
}
