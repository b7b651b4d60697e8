//! Exit statuses: an interface that scripts rely on.

use std::process::ExitCode;

/// What `--help` says about them.
pub(super) const HELP: &str = "\
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

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done and proven.
    Done = 0,
    /// Failed, the old generation still serves.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// Done, but at least one traffic listener is unproven.
    Unproven = 3,
    /// Failed, and a port is not served.
    NobodyServes = 4,
    /// The daemon is not reachable.
    NoDaemon = 69,
    /// A defect of ours.
    Internal = 70,
    /// Busy past the timeout.
    TryAgain = 75,
    /// A privilege is missing.
    Privilege = 77,
    /// The configuration is not valid.
    BadConfiguration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    /// The status that a daemon sent as a number.
    pub(super) fn from_number(number: u8) -> Exit {
        match number {
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
