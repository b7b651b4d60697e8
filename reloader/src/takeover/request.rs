//! Defines what the operator asks for, and what is reported at the end.

use std::path::Path;

use serde::Serialize;

use super::steps::Step;
use super::table::Row;

/// What the operator asks for.
#[derive(Debug, Clone, Copy)]
pub struct TakeoverRequest<'a> {
    /// The full name of the unit: `haproxy.service`.
    pub unit: &'a str,
    /// Hand the unit back.
    pub undo: bool,
    /// Report the steps without taking them.
    pub dry_run: bool,
    /// The configuration that `--config` names.
    pub config_path: Option<&'a Path>,
    /// The command that starts this program in the unit, with the options that all commands share.
    pub reloader: &'a str,
}

/// What was done. `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TakeoverReport {
    /// The name of the unit.
    pub unit: String,
    /// Whether the steps were taken; false after a dry run.
    pub done: bool,
    /// What becomes of each setting of the unit. Empty when a unit is handed back: there its own settings are in force again.
    pub settings: Vec<Row>,
    /// All steps, in order.
    pub steps: Vec<Step>,
    /// What the operator should know, a sentence each.
    pub notes: Vec<String>,
    /// Whether a note tells of connections that may be lost.
    #[serde(skip)]
    pub may_have_lost: bool,
}
