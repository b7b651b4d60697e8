//! `reloader release`: releases every hold, in an emergency.

use serde::Serialize;

use super::{CliError, Context, Exit, output};
use crate::fs::exclusive_dir::refuse_others_writing;
use crate::gate::failures::Failures;
use crate::gate::hold::{CleanUp, HoldEntry, HoldError, HoldRecord, HoldRegistry, clean_up, release_all};
use crate::process;

/// What was released and removed. `--json` prints it.
#[derive(Serialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Released {
    /// Holds that their guard released.
    lifted: Vec<String>,
    /// Holds whose guard does not answer or could not release them.
    unanswered: Vec<String>,
    /// The number of holds whose holder and guard are dead.
    dead: usize,
    /// The number of filters, qdiscs and devices that these had left.
    removed: usize,
}

pub(super) fn run(context: &Context, format: output::Format) -> Result<Exit, CliError> {
    let config = context.config()?;
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::new(Exit::Privilege, "only root may release holds; use sudo"));
    }
    let directory = &config.runtime_dir;
    refuse_others_writing(directory).map_err(|error| {
        CliError::new(Exit::BadConfiguration, format!("runtime-dir {}: {error}", directory.display()))
    })?;
    let registry = HoldRegistry::new(directory);
    let (lifted, unanswered) = release_all(&registry).map_err(|error| CliError::new(Exit::Failed, error))?;
    let mut released = Released {
        lifted: lifted.iter().map(hold_name).collect(),
        unanswered: unanswered.iter().map(hold_name).collect(),
        ..Released::default()
    };
    // What was released is shown even where the clean-up fails.
    let clean_up = clean_up_everywhere(&registry, &mut released);
    show(format, &released)?;
    clean_up.map_err(|error| CliError::new(Exit::Failed, error))?;
    Ok(if released.unanswered.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Cleans up after dead holds in all network namespaces. An error in one of them does not stop the others.
fn clean_up_everywhere(registry: &HoldRegistry, released: &mut Released) -> Result<(), HoldError> {
    let mut add = |done: CleanUp| {
        released.dead += done.dead.len();
        released.removed += done.removed;
        done.elsewhere
    };
    let mut failures = Failures::new();
    failures.note(clean_up(registry).map(&mut add));
    let entries = failures.note(registry.list()).unwrap_or_default();
    for dead in entries.into_iter().filter(|entry| !entry.lives) {
        let Some(record) = dead.record.filter(|record| !record.is_of_this_namespace()) else { continue };
        failures.note(clean_up_in(registry, &record).map(&mut add));
    }
    failures.into_result(())
}

/// Cleans up after a dead hold of another network namespace, in a thread that enters it. Where the namespace is gone, nothing but
/// the record is left of the hold.
fn clean_up_in(registry: &HoldRegistry, record: &HoldRecord) -> Result<CleanUp, HoldError> {
    let namespace = process::network_namespace(record.netns, record.netns_path.as_deref());
    let Some(namespace) = namespace.map_err(HoldError::CleanUp)? else {
        registry.forget(record.id, &registry.lock()?)?;
        return Ok(CleanUp { dead: vec![record.id], ..CleanUp::default() });
    };
    let registry = registry.clone();
    let thread = std::thread::spawn(move || {
        let entered = nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET);
        entered.map_err(|errno| HoldError::CleanUp(errno.into()))?;
        clean_up(&registry)
    });
    let panicked = || std::io::Error::other("the thread in its network namespace panicked");
    thread.join().unwrap_or_else(|_| Err(HoldError::CleanUp(panicked())))
}

fn hold_name(entry: &HoldEntry) -> String {
    match &entry.record {
        Some(record) => {
            let listen: Vec<String> = record.listen.iter().map(ToString::to_string).collect();
            format!("hold {} of process {} on {}", entry.id, record.holder, listen.join(", "))
        }
        None => format!("hold {}", entry.id),
    }
}

fn show(format: output::Format, released: &Released) -> Result<(), CliError> {
    if format.json {
        return output::json(released);
    }
    let mut text = String::new();
    released.lifted.iter().for_each(|hold| text.push_str(&format!("released: {hold}\n")));
    released.unanswered.iter().for_each(|hold| {
        text.push_str(&format!("not released: {hold}: its guard is dead, does not answer, or could not release it\n"))
    });
    if released.dead > 0 || released.removed > 0 {
        text.push_str(&format!(
            "cleaned up after {} dead holds: {} filters, qdiscs and devices\n",
            released.dead, released.removed
        ));
    }
    output::print(if text.is_empty() { "nothing was held\n" } else { &text })
}
