//! Lets HAProxy check its configuration (`haproxy -c`).

use std::process::{Command, Stdio};

use crate::config::Haproxy;
use crate::sys::ignore_sigusr2;

/// The command that lets HAProxy check its configuration.
pub fn check_command(haproxy: &Haproxy) -> Command {
    let mut command = Command::new(&haproxy.binary);
    ignore_sigusr2(&mut command);
    command.arg("-c").args(&haproxy.args).stdin(Stdio::null());
    command.envs(&haproxy.environment);
    for file in &haproxy.config {
        command.arg("-f").arg(file);
    }
    command
}
