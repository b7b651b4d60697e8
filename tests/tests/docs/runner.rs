//! Runs the commands of a block in a machine, and compares what they print.

use std::time::Duration;

use reloader_tests::documents::{self, Step};
use reloader_tests::poll::satisfied_within;
use reloader_tests::rig::Answer;

use super::Place;

/// How long the output of a command that only looks may take to become what is shown.
const LIMIT: Duration = Duration::from_secs(20);
/// How often a load that this machine cannot carry at the moment is tried again.
const TRIES: usize = 30;

/// Runs a shell command in a machine, both outputs in one.
pub(super) trait Shell {
    fn run(&self, command: &str) -> Answer;
}

/// Runs all commands of the block. Panics unless each ends and prints as the document shows.
#[track_caller]
pub(super) fn run(shell: &impl Shell, (page, beginning): Place) {
    let block = documents::block(page, beginning);
    for step in block.steps() {
        if let Some(difference) = differs(shell, &step) {
            panic!("{page}, line {}: `{}`: {difference}", block.line, step.command);
        }
    }
}

fn differs(shell: &impl Shell, step: &Step) -> Option<String> {
    let look = |answer: &Answer| {
        if answer.status != step.status {
            return Some(format!("status {} instead of {}:\n{}", answer.status, step.status, answer.stdout));
        }
        // What is late is told only where something was.
        let output: String =
            answer.stdout.lines().filter(|line| !line.starts_with("late ")).map(|line| format!("{line}\n")).collect();
        if step.shown.is_empty() { None } else { documents::difference(&step.shown, &output) }
    };
    let mut difference = look(&shell.run(&step.command));
    if step.command.starts_with("reloader prove") {
        for _ in 0..TRIES {
            if !difference.as_ref().is_some_and(|text| text.starts_with("status 75")) {
                break;
            }
            difference = look(&shell.run(&step.command));
        }
    } else if difference.is_some()
        && ["reloader status", "reloader history"].iter().any(|look| step.command.starts_with(look))
    {
        satisfied_within(LIMIT, || {
            difference = look(&shell.run(&step.command));
            difference.is_none()
        });
    }
    difference
}
