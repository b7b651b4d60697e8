use std::path::PathBuf;

/// Why a unit is not handed over. Unless it says otherwise, nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The machine has another init.
    #[error(
        "systemd does not run here (there is no /run/systemd/system): start `reloader daemon` beside HAProxy instead, it adopts it"
    )]
    NoSystemd,
    /// `systemctl` could not be run or said no.
    #[error("`systemctl {command}` failed: {said}")]
    Systemctl {
        /// Its arguments.
        command: String,
        /// What it said.
        said: String,
    },
    /// There is no such unit.
    #[error("systemd knows no unit {0}; `systemctl list-units --type=service` names those that it knows")]
    NoUnit(String),
    /// It has nothing to hand over.
    #[error("{unit} does not run (it is {state}): start it, or enable reloader.service in its place")]
    NotRunning {
        /// The unit.
        unit: String,
        /// `inactive`, `failed`, …
        state: String,
    },
    /// Another server.
    #[error(
        "the main process of {unit} ({program}, process {pid}) is no HAProxy; other servers are run by a [service.NAME]: docs/guide/other-servers.md"
    )]
    NotHaproxy {
        /// The unit.
        unit: String,
        /// What it runs.
        program: String,
        /// Its main process.
        pid: u32,
    },
    /// It was done before.
    #[error("{0} was taken over already; `--undo` hands it back")]
    AlreadyTaken(String),
    /// It was not done before.
    #[error("{unit} was not taken over: there is no {drop_in}", drop_in = .drop_in.display())]
    NotTaken {
        /// The unit.
        unit: String,
        /// What would be there.
        drop_in: PathBuf,
    },
    /// A setting of the unit that would be lost, or keep the daemon from its work.
    #[error("{unit} cannot be taken over as it is: {why}")]
    CannotCarry {
        /// The unit.
        unit: String,
        /// A sentence.
        why: String,
    },
    /// reloader.toml says something else than the unit.
    #[error("{path} says something else than the unit: {why}; make them agree, or move the file away", path = .path.display())]
    Disagrees {
        /// The configuration.
        path: PathBuf,
        /// A sentence.
        why: String,
    },
    /// A daemon runs already.
    #[error(
        "a reloader daemon runs already and answers on {0}: it would not let another one start; stop it first (HAProxy serves on)"
    )]
    DaemonRuns(PathBuf),
    /// The daemon is not reachable, or would not do what is needed first.
    #[error("{0}")]
    Daemon(String),
    /// A file.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A step failed after something had been changed.
    #[error("{step} failed: {why}\n{now}")]
    Halfway {
        /// What was to be done.
        step: String,
        /// Why it was not.
        why: String,
        /// How things stand now.
        now: String,
    },
}
