//! The steps, one after the other; what was begun and fails is taken back.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::{self, Step};
use super::unit::Unit;
use super::{Ask, TakeoverError, files, preflight, systemd};
use crate::config::Config;
use crate::fs::generation_files::GenerationFiles;
use crate::haproxy::launch::is_private_socket;
use crate::haproxy::master::tell_to_drain;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;
use crate::process::{self, Handle};
use crate::supervision::status::{ListenerStatus, Serving, Status};

/// What the daemon is asked meanwhile.
pub trait Asker {
    /// What serves.
    fn status(&self) -> Result<Status, String>;
    /// Reloads; an error unless it is proven.
    fn reload(&self) -> Result<(), String>;
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The unit.
    pub unit: String,
    /// It was done; false after a dry run.
    pub done: bool,
    /// Each step.
    pub steps: Vec<Step>,
    /// What the operator should know, in sentences.
    pub notes: Vec<String>,
}

pub(super) async fn take(
    ask: Ask<'_>,
    config: &Config,
    asker: &dyn Asker,
    say: &dyn Fn(&Step),
) -> Result<Report, TakeoverError> {
    let ready = preflight::take(ask.unit, ask.config_path, config).await?;
    let wrote_config = ready.config.is_some();
    let steps = plan::take(&ready.unit, ready.pid, ask.reloader, ready.config);
    let mut notes = ready.carried.notes;
    notes.push(format!(
        "`systemctl reload {0}` and `systemctl status {0}` go on to work. `systemctl stop {0}` ends the daemon and leaves HAProxy serving; \
         `reloader stop` ends both",
        ask.unit
    ));
    let mut carrier = Carrier { unit: &ready.unit, config, asker, say, notes };
    if !ask.dry_run
        && let Err((step, why)) = carrier.all(&steps)
    {
        let main = systemd::unit(ask.unit).ok().and_then(|unit| unit.main_pid());
        let back = carrier.all(&plan::give_up(&ready.unit, ready.pid, main, wrote_config));
        let now = match back {
            Ok(()) => {
                format!("{} is as it was before, and HAProxy (process {}) has served all the time", ask.unit, ready.pid)
            }
            Err((step, why)) => {
                format!(
                    "HAProxy (process {}) serves on, but {} could not be put back: {step}: {why}",
                    ready.pid, ask.unit
                )
            }
        };
        return Err(TakeoverError::Halfway { step, why, now });
    }
    let notes = carrier.notes;
    Ok(Report { unit: ask.unit.into(), done: !ask.dry_run, steps, notes })
}

pub(super) async fn undo(
    ask: Ask<'_>,
    config: &Config,
    asker: &dyn Asker,
    say: &dyn Fn(&Step),
) -> Result<Report, TakeoverError> {
    let unit = preflight::undo(ask.unit, config)?;
    let before = serving(asker).map_err(TakeoverError::Daemon)?;
    let removes_config = is_our_config();
    let mut carrier = Carrier { unit: &unit, config, asker, say, notes: Vec::new() };
    let steps = |serving: &Serving| {
        let socket = GenerationFiles::new(&config.runtime_dir, serving.generation).socket;
        plan::undo(&unit, serving.pid, &socket, removes_config)
    };
    if ask.dry_run {
        let mut steps = steps(&Serving { generation: before.generation + 1, ..before });
        steps.insert(0, Step::Reload);
        carrier.notes.push("the generation and its process are those of the reload that comes first".into());
        return Ok(Report { unit: ask.unit.into(), done: false, steps, notes: carrier.notes });
    }
    carrier.all(&[Step::Reload]).map_err(|(_, why)| TakeoverError::Daemon(why))?;
    let steps = steps(&serving(asker).map_err(TakeoverError::Daemon)?);
    if let Err((step, why)) = carrier.all(&steps) {
        let now = match carrier.all(&plan::keep(&unit, ask.reloader)) {
            Ok(()) => format!("{} is reloader's as before, and its generation has served all the time", ask.unit),
            Err((step, why)) => format!("{} could not be put back: {step}: {why}; `systemctl status {0}`", ask.unit),
        };
        return Err(TakeoverError::Halfway { step, why, now });
    }
    let notes = carrier.notes;
    let steps = std::iter::once(Step::Reload).chain(steps).collect();
    Ok(Report { unit: ask.unit.into(), done: true, steps, notes })
}

fn serving(asker: &dyn Asker) -> Result<Serving, String> {
    asker.status()?.main.serving.ok_or_else(|| "the daemon serves nothing: there is nothing to hand back".into())
}

/// One that `takeover` wrote and nobody changed: the unit's command line says all that stands in it.
fn is_our_config() -> bool {
    fs::read_to_string(files::CONFIG).is_ok_and(|text| files::is_as_written(&text))
}

struct Carrier<'a> {
    unit: &'a Unit,
    config: &'a Config,
    asker: &'a dyn Asker,
    say: &'a dyn Fn(&Step),
    notes: Vec<String>,
}

impl Carrier<'_> {
    /// Up to the first that fails: which one, and why.
    fn all(&mut self, steps: &[Step]) -> Result<(), (String, String)> {
        for step in steps {
            (self.say)(step);
            self.one(step).map_err(|why| (first_line(step), why))?;
        }
        Ok(())
    }

    fn one(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Write { path, text } => write(path, text).map_err(|error| error.to_string()),
            Step::Remove { path } => remove(path).map_err(|error| error.to_string()),
            Step::Systemctl { words } => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                systemd::systemctl(&words).map(drop).map_err(|error| error.to_string())
            }
            Step::Adopted { pid } => {
                let status = self.asker.status()?;
                match status.main.serving {
                    Some(serving) if serving.pid != *pid => {
                        Err(format!("the daemon has another process in its care ({})", serving.pid))
                    }
                    Some(serving) => in_custody(&serving, &status.main.custody),
                    None => Err("the daemon has nothing in its care".into()),
                }
            }
            Step::Reload => self.asker.reload(),
            Step::Retire { pid } => self.retire(*pid),
        }
    }

    /// The unit's own HAProxy serves by now. What it does not share with the generation that was served from is said.
    fn retire(&mut self, pid: u32) -> Result<(), String> {
        let main = systemd::unit(&self.unit.name).map_err(|error| error.to_string())?.main_pid();
        let main = main.filter(|main| *main != pid).ok_or("the unit has no main process")?;
        let shared: HashSet<u64> = process::sockets_of(&process::family(main)).into_keys().collect();
        let is_private = |address: &Address| matches!(address, Address::Unix(path) if is_private_socket(&self.config.runtime_dir, path));
        let (private, public): (Vec<_>, Vec<_>) =
            listeners(pid)?.into_iter().partition(|found| is_private(&found.address));
        let private: Vec<u64> = private.into_iter().map(|found| found.inode).collect();
        let anew = public.into_iter().filter(|found| !shared.contains(&found.inode));
        let note = |found: ListenSocket| {
            format!(
                "{} was bound anew and not passed: what was queued on the old socket at that moment may be lost",
                found.address
            )
        };
        self.notes.extend(anew.map(note).collect::<Vec<_>>());
        let old = process::start_time(pid).and_then(|start_time| Handle::adopt(pid, start_time));
        match old {
            Some(old) => tell_to_drain(&old, &private),
            None => self.notes.push(format!("process {pid} had ended by itself")),
        }
        Ok(())
    }
}

/// What is not in custody could not be passed by the first reload.
fn in_custody(serving: &Serving, custody: &[ListenerStatus]) -> Result<(), String> {
    let is_kept = |listener: &&ListenerStatus| custody.iter().any(|held| held.inode == listener.inode);
    match serving.listeners.iter().find(|listener| !is_kept(listener)) {
        None => Ok(()),
        Some(lacking) => Err(format!(
            "{} could not be taken into custody (Linux 5.6 and CAP_SYS_PTRACE, or `expose-fd listeners` behind HAProxy's stats socket, \
             are needed), so the first reload could not be proven",
            lacking.address
        )),
    }
}

/// The TCP and unix listeners of a process and its kin.
fn listeners(pid: u32) -> Result<Vec<ListenSocket>, String> {
    let sockets = process::sockets_of(&process::family(pid));
    let all = sock_diag::listeners().map_err(|error| error.to_string())?;
    Ok(all.into_iter().filter(|found| sockets.contains_key(&found.inode)).collect())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text)
}

/// And the directory, where it was the last in it.
fn remove(path: &PathBuf) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = path.parent().filter(|directory| directory.to_string_lossy().ends_with(".service.d"));
    directory.into_iter().for_each(|directory| drop(fs::remove_dir(directory)));
    Ok(())
}

fn first_line(step: &Step) -> String {
    let text = step.to_string();
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}
