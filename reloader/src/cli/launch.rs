//! `reloader launch`, which the daemon starts and which becomes the server of a service. It sets LISTEN_PID to its own pid, as
//! sd_listen_fds(3) requires, and changes its user where the service has one.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{initgroups, setgid, setuid};

use super::{CliError, Exit};
use crate::fs::accounts;
use crate::process;
use crate::sys::Inheritance;

/// Arguments of `reloader launch`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Number of listeners among the descriptors, from 3 on.
    #[arg(long)]
    sockets: usize,
    /// Names of these listeners, separated by colons.
    #[arg(long, default_value = "")]
    names: String,
    /// File for the pid and start time of this process, written before the process becomes the server.
    #[arg(long)]
    record: PathBuf,
    /// User that the server runs as.
    #[arg(long)]
    user: Option<String>,
    /// Command line of the server.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, inheritance: io::Result<Inheritance>) -> Result<Exit, CliError> {
    let failed = |message: String| CliError::new(Exit::BadConfiguration, message);
    let inheritance = inheritance.map_err(|error| failed(format!("cannot read this process's limits: {error}")))?;
    let mut command = Command::new(&arguments.command[0]);
    command.args(&arguments.command[1..]);
    if arguments.sockets > 0 {
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", arguments.sockets.to_string()).env("LISTEN_FDNAMES", &arguments.names);
        inheritance.pass_descriptors_to(&mut command);
    }
    let own = std::process::id();
    let record = format!("{own} {}\n", process::start_time(own).unwrap_or_default());
    std::fs::write(&arguments.record, record)
        .map_err(|error| failed(format!("cannot write {}: {error}", arguments.record.display())))?;
    if let Some(name) = &arguments.user {
        become_user(name).map_err(failed)?;
    }
    let error = command.exec();
    Err(failed(format!("cannot start {}: {error}", arguments.command[0])))
}

fn become_user(name: &str) -> Result<(), String> {
    let failed = |errno: nix::Error| format!("cannot become the user `{name}`: {errno}");
    let user = accounts::user(name)?;
    let c_name = CString::new(name).map_err(|_| format!("`{name}` is not a user name"))?;
    initgroups(&c_name, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)
}
