use std::path::PathBuf;

/// Why a unit is not handed over or back. Nothing has been changed, except where the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The machine's init is not systemd.
    #[error(
        "systemd does not run here (there is no /run/systemd/system): start `reloader daemon` beside HAProxy instead; it adopts HAProxy"
    )]
    NoSystemd,
    /// `systemctl` could not be run, or failed.
    #[error("`systemctl {command}` failed: {message}")]
    Systemctl {
        /// Its arguments.
        command: String,
        /// What it printed, or why it could not be run.
        message: String,
    },
    /// The unit does not exist.
    #[error("systemd knows no unit {0}; `systemctl list-units --type=service` lists the units")]
    NoUnit(String),
    /// The unit has no main process to hand over.
    #[error("{unit} does not run (it is {state}): {remedy}")]
    NotRunning {
        /// The name of the unit.
        unit: String,
        /// Its state: `inactive`, `failed`, …
        state: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another takeover runs.
    #[error("another `reloader takeover` runs on this machine: wait for its end")]
    Busy,
    /// A start or a reload of the unit does not come to its end.
    #[error("{unit} is still {state} after {seconds} s; try again when `systemctl is-active {unit}` says `active`")]
    NotSettled {
        /// The name of the unit.
        unit: String,
        /// Its state: `activating` or `reloading`.
        state: String,
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// The unit runs another server.
    #[error(
        "the main process of {unit} ({program}, process {pid}) is not HAProxy; other servers are run by a [service.NAME]: docs/guide/other-servers.md"
    )]
    NotHaproxy {
        /// The name of the unit.
        unit: String,
        /// The program of its main process.
        program: String,
        /// The pid of its main process.
        pid: u32,
    },
    /// The unit was taken over already: it runs reloader.
    #[error("{0} was taken over already; `--undo` hands it back")]
    AlreadyTaken(String),
    /// The unit was taken over, and a takeover would write another drop-in now.
    #[error(
        "{0} was taken over already, and its drop-in is not what a takeover would write now: lines of the unit, or reloader itself, have changed \
         since; `--undo`, and then another takeover, put the change in force"
    )]
    Outdated(String),
    /// The unit was not taken over.
    #[error("{unit} was not taken over: there is no {drop_in}", drop_in = .drop_in.display())]
    NotTaken {
        /// The name of the unit.
        unit: String,
        /// The file that a takeover writes.
        drop_in: PathBuf,
    },
    /// A setting of the unit, or of HAProxy, stands in the way.
    #[error("{unit} cannot be taken over as it is: {reason}")]
    Obstacle {
        /// The name of the unit.
        unit: String,
        /// What stands in the way, and the remedy.
        reason: String,
    },
    /// reloader.toml disagrees with the unit.
    #[error("{path} disagrees with the unit: {reason}; make them agree, or move the file away", path = .path.display())]
    ConfigDisagrees {
        /// The configuration.
        path: PathBuf,
        /// Where they differ.
        reason: String,
    },
    /// A daemon runs already.
    #[error(
        "a reloader daemon runs already and answers on {0}: it would not let another one start; stop it first (with on-stop = \"leave\" SIGTERM leaves HAProxy serving), or, for a second HAProxy on this machine, give `--config` a file with another control-socket, runtime-dir and state-dir"
    )]
    DaemonRuns(PathBuf),
    /// The daemon cannot be reached, or did not do what must be done before the first step.
    #[error("{0}")]
    Daemon(String),
    /// A step failed after earlier steps had been taken.
    #[error("{step} failed: {reason}\n{outcome}")]
    StepFailed {
        /// The step.
        step: String,
        /// Why it failed.
        reason: String,
        /// The state of the unit and of HAProxy now.
        outcome: String,
    },
}
