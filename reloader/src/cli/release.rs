//! `reloader release`: the emergency exit.

use serde::Serialize;

use super::{Context, Exit, Failure, output};
use crate::fs::exclusive_dir::refuse_others_writing;
use crate::gate::hold::{CleanUp, HoldEntry, HoldError, HoldRecord, HoldRegistry, clean_up, lift_all};
use crate::process;

#[derive(Serialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Released {
    /// Holds whose guard released them.
    lifted: Vec<String>,
    /// Holds whose guard does not answer, or could not.
    unanswered: Vec<String>,
    /// Holds that had lost holder and guard.
    dead: usize,
    /// Filters, qdiscs and devices that those had left.
    removed: usize,
}

pub(super) fn run(context: &Context, format: output::Format) -> Result<Exit, Failure> {
    let config = context.config()?;
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(Exit::Privilege, "releasing holds takes root: they are root's"));
    }
    let place = &config.runtime_dir;
    refuse_others_writing(place)
        .map_err(|error| Failure::new(Exit::BadConfiguration, format!("runtime-dir {}: {error}", place.display())))?;
    let records = HoldRegistry::new(place);
    let (lifted, unanswered) = lift_all(&records).map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut released = Released {
        lifted: lifted.iter().map(words).collect(),
        unanswered: unanswered.iter().map(words).collect(),
        ..Released::default()
    };
    // What was released has to be told, whatever stays behind.
    let cleaned = clean_up_everywhere(&records, &mut released);
    show(format, &released)?;
    cleaned.map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(if released.unanswered.is_empty() { Exit::Done } else { Exit::Failed })
}

/// An error in one network namespace keeps no other from being cleaned up; the first is told.
fn clean_up_everywhere(records: &HoldRegistry, released: &mut Released) -> Result<(), HoldError> {
    let mut add = |done: CleanUp| {
        released.dead += done.dead.len();
        released.removed += done.removed;
        done.elsewhere
    };
    let here = clean_up(records).map(&mut add);
    let mut result = here.map(drop);
    let dead = records.list()?.into_iter().filter(|found| !found.lives);
    for found in dead {
        let Some(record) = found.record.filter(|record| !record.is_of_this_namespace()) else { continue };
        let done = clean_up_in(records, &record).map(|done| drop(add(done)));
        result = result.and(done);
    }
    result
}

/// A dead hold of another network namespace, from a thread that enters it. With the namespace gone there is nothing left of the
/// hold but its record.
fn clean_up_in(records: &HoldRegistry, record: &HoldRecord) -> Result<CleanUp, HoldError> {
    let Some(namespace) = process::network_namespace(record.netns, record.netns_path.as_deref())? else {
        records.forget(record.id, &records.lock()?)?;
        return Ok(CleanUp { dead: vec![record.id], ..CleanUp::default() });
    };
    let records = records.clone();
    let thread = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
        clean_up(&records)
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("cleaning up in another network namespace failed").into()))
}

fn words(found: &HoldEntry) -> String {
    match &found.record {
        Some(record) => {
            let listen: Vec<String> = record.listen.iter().map(ToString::to_string).collect();
            format!("hold {} of process {} on {}", found.id, record.holder, listen.join(", "))
        }
        None => format!("hold {}", found.id),
    }
}

fn show(format: output::Format, released: &Released) -> Result<(), Failure> {
    if format.json {
        return output::json(released);
    }
    let mut text = String::new();
    released.lifted.iter().for_each(|hold| text.push_str(&format!("released: {hold}\n")));
    released.unanswered.iter().for_each(|hold| {
        text.push_str(&format!("not released: {hold}: its guard is dead, does not answer, or could not\n"))
    });
    if released.dead > 0 || released.removed > 0 {
        text.push_str(&format!(
            "cleaned up after {} dead holds: {} filters, qdiscs and devices\n",
            released.dead, released.removed
        ));
    }
    output::print(if text.is_empty() { "nothing was held\n" } else { &text })
}
