//! Exit statuses. Scripts rely on their numbers.

use std::process::ExitCode;

/// The text about exit statuses below `reloader --help`.
pub(super) fn help() -> String {
    format!("{STATUSES}\n\n{HOLD}")
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

/// The text about exit statuses below `reloader hold --help`.
pub(super) const HOLD: &str = "\
`hold` exits with the command's own status, or with
 124  nothing listened when the hold ended
 125  the hold itself failed, and the command was not run
 126  the command cannot be run
 127  there is no such command";

/// The text about exit statuses below `reloader prove --help`.
pub(super) const PROVE: &str = "\
Exit status:
   0  nothing was lost, and every reload succeeded
   1  something was lost, a reload failed, or the service did not answer before the load
   2  usage; also --keep-alive where the service keeps no connection, and --hold where it replies before the end of a request
  69  daemon not reachable, and no --reload-command
  70  internal error, or the report cannot be written
  75  not measured: this machine could not carry the load or fell behind its schedule; try again with a lower --rate
  77  missing privilege
  78  bad configuration
 128  plus the signal's number: the signal cut the run short before anything was lost";

/// The exit status of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done and proven.
    Done,
    /// Failed; the old generation still serves.
    Failed,
    /// The command line is not valid.
    Usage,
    /// Done, but at least one traffic listener is unproven.
    Unproven,
    /// Failed; a port is not served.
    NothingServes,
    /// The daemon is not reachable.
    NoDaemon,
    /// A defect of this program, or an error of the system that it does not expect.
    Internal,
    /// The daemon was busy until the timeout, or the machine too busy to measure.
    TryAgain,
    /// The caller lacks a privilege.
    Privilege,
    /// The configuration is not valid.
    BadConfiguration,
    /// `hold`: no listener was there when the hold ended.
    NothingListens,
    /// `hold`: the hold itself failed, and the command was not run.
    HoldFailed,
    /// `hold`: the status of the command. Both `hold` and `prove`: 128 plus the number of the signal that ended it early.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

impl Exit {
    /// The number that the shell gets.
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unproven => 3,
            Exit::NothingServes => 4,
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

    /// The status for a number that the daemon sent. Unknown numbers are internal errors.
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

/// Why a command fails.
#[derive(Debug)]
pub struct CliError {
    /// The exit status.
    pub exit: Exit,
    /// The message for standard error, with the remedy where one is known.
    pub message: String,
}

impl CliError {
    /// An error with this status and message.
    pub fn new(exit: Exit, message: impl ToString) -> CliError {
        CliError { exit, message: message.to_string() }
    }
}
