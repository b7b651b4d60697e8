//! Exit statuses: an interface that scripts rely on.

use std::process::ExitCode;

/// What `--help` says about them.
pub(super) fn help() -> String {
    format!("{STATUSES}\n{HOLD}")
}

/// The statuses that all commands have in common.
pub(super) const STATUSES: &str = "\
Exit status:
   0  done and proven
   1  failed, the old generation still serves
   2  usage
   3  done, but at least one traffic listener is unproven
   4  failed, and a port is not served
  69  daemon not reachable
  70  internal error
  75  try again (busy past the timeout)
  77  missing privilege
  78  bad configuration";

/// What the help of `hold` says about them.
pub(super) const HOLD: &str = "\
`hold` ends with the command's own status, or
 124  nothing listened when the hold ended
 125  the hold itself failed, and the command was not run
 126  the command cannot be run
 127  there is no such command";

/// What the help of `prove` says about them.
pub(super) const PROVE: &str = "\
Exit status:
   0  nothing was lost, and every reload succeeded
   1  something was lost, a reload failed, or nothing was served to begin with
   2  usage, also --keep-alive where the service keeps no connection
  69  daemon not reachable, and no --reload-command
  70  internal error, or the report cannot be written
  75  not measured: this machine could not carry the load, or not on its schedule; try again with a lower --rate
  77  missing privilege
  78  bad configuration
 128  and the signal's number: cut short by it before anything was lost";

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done and proven.
    Done,
    /// Failed, the old generation still serves.
    Failed,
    /// Wrong command line.
    Usage,
    /// Done, but at least one traffic listener is unproven.
    Unproven,
    /// Failed, and a port is not served.
    NobodyServes,
    /// The daemon is not reachable.
    NoDaemon,
    /// A defect of ours.
    Internal,
    /// Busy past the timeout.
    TryAgain,
    /// A privilege is missing.
    Privilege,
    /// The configuration is not valid.
    BadConfiguration,
    /// `hold`: nothing listened when the hold ended.
    NothingListens,
    /// `hold`: the hold itself failed.
    HoldFailed,
    /// `hold`: the status of the command; `prove`: 128 and the number of the signal that cut it short.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

impl Exit {
    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unproven => 3,
            Exit::NobodyServes => 4,
            Exit::NoDaemon => 69,
            Exit::Internal => 70,
            Exit::TryAgain => 75,
            Exit::Privilege => 77,
            Exit::BadConfiguration => 78,
            Exit::NothingListens => 124,
            Exit::HoldFailed => 125,
            Exit::Command(status) => status,
        }
    }

    /// The status that a daemon sent as a number.
    pub(super) fn from_number(number: u8) -> Exit {
        match number {
            1 => Exit::Failed,
            2 => Exit::Usage,
            69 => Exit::NoDaemon,
            75 => Exit::TryAgain,
            77 => Exit::Privilege,
            78 => Exit::BadConfiguration,
            _ => Exit::Internal,
        }
    }
}

/// Why a command ends early: a sentence and a status.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub exit: Exit,
    /// The sentence.
    pub message: String,
}

impl Failure {
    /// From anything that reads as a sentence.
    pub fn new(exit: Exit, message: impl ToString) -> Failure {
        Failure { exit, message: message.to_string() }
    }
}
