//! Runs the command that says whether a configuration is good.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;

/// A command that checks a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
    /// Which program refuses, for people.
    pub(crate) who: String,
    /// `NAME=VALUE`; `None` for the daemon's own environment.
    pub(crate) environment: Option<Vec<String>>,
    /// Further variables.
    pub(crate) added: BTreeMap<String, String>,
}

impl Check {
    /// Runs it. Dropping the future kills it.
    ///
    /// # Errors
    /// The lines that it wrote when it refused.
    pub(crate) async fn run(&self) -> Result<(), Vec<String>> {
        crate::process::run_to_success(&mut self.command()).await
    }

    /// Does the same while other processes come first.
    ///
    /// # Errors
    /// The lines that it wrote when it refused.
    pub(crate) async fn run_in_background(&self) -> Result<(), Vec<String>> {
        crate::process::run_to_success_in_background(&mut self.command()).await
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        if let Some(environment) = &self.environment {
            command.env_clear().envs(environment.iter().filter_map(|entry| entry.split_once('=')));
        }
        command.envs(&self.added);
        command
    }
}
