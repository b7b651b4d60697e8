//! `reloader release`: the emergency exit.

use serde::Serialize;

use super::{Context, Exit, Failure, output};
use crate::gate::hold::{CleanUp, Found, HoldError, Records, clean_up, lift_all};
use crate::process;

#[derive(Serialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Released {
    /// Holds whose guard released them.
    lifted: Vec<String>,
    /// Holds whose guard does not answer.
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
    let records = Records::of(&config.runtime_dir);
    let failed = |error: HoldError| Failure::new(Exit::Failed, error);
    let (lifted, unanswered) = lift_all(&records).map_err(failed)?;
    let here = clean_up(&records).map_err(failed)?;
    let mut released = Released {
        lifted: lifted.iter().map(words).collect(),
        unanswered: unanswered.iter().map(words).collect(),
        dead: here.dead.len(),
        removed: here.removed,
    };
    for done in elsewhere(&records, &here).map_err(failed)? {
        released.dead += done.dead.len();
        released.removed += done.removed;
    }
    show(format, &released)?;
    Ok(if released.unanswered.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Dead holds of other network namespaces: each is cleaned up from a thread that enters it. With the namespace gone there is
/// nothing left of the hold but its record.
fn elsewhere(records: &Records, here: &CleanUp) -> Result<Vec<CleanUp>, HoldError> {
    let mut done = Vec::new();
    for found in records.list()?.into_iter().filter(|found| here.elsewhere.contains(&found.id)) {
        let namespace = found.record.and_then(|record| process::network_namespace(record.netns));
        let Some(namespace) = namespace else {
            records.forget(found.id, &records.lock()?)?;
            done.push(CleanUp { dead: vec![found.id], ..CleanUp::default() });
            continue;
        };
        let records = records.clone();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
            clean_up(&records)
        });
        done.push(thread.join().unwrap_or_else(|_| Ok(CleanUp::default()))?);
    }
    Ok(done)
}

fn words(found: &Found) -> String {
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
    released.unanswered.iter().for_each(|hold| text.push_str(&format!("no answer: the guard of {hold}\n")));
    if released.dead > 0 || released.removed > 0 {
        text.push_str(&format!(
            "cleaned up after {} dead holds: {} filters, qdiscs and devices\n",
            released.dead, released.removed
        ));
    }
    output::print(if text.is_empty() { "nothing was held\n" } else { &text })
}
