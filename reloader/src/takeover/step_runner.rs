//! Takes the steps of a takeover, one after the other.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::daemon_client::DaemonClient;
use super::steps::Step;
use super::systemd;
use super::unit::Unit;
use crate::config::Config;
use crate::fs::{begun, write_whole};
use crate::haproxy::launch::is_private_socket;
use crate::haproxy::master::tell_to_drain;
use crate::haproxy::runtime_api;
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::Address;
use crate::process::{self, Handle};
use crate::supervision::status::{ListenerStatus, Serving};

/// How long HAProxy may take to answer on its stats socket.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The first step that failed.
pub(super) struct FailedStep {
    /// The step in one line, as it is announced.
    pub(super) step: String,
    /// Why it failed.
    pub(super) reason: String,
}

pub(super) struct StepRunner<'a> {
    unit: &'a Unit,
    config: &'a Config,
    daemon: &'a dyn DaemonClient,
    announce: &'a dyn Fn(&Step),
    notes: Vec<String>,
    /// The daemon's generation was told to drain.
    has_retired: bool,
    /// A listener was bound again, with connections on the old socket perhaps.
    may_have_lost: bool,
}

impl<'a> StepRunner<'a> {
    pub(super) fn new(
        unit: &'a Unit,
        config: &'a Config,
        daemon: &'a dyn DaemonClient,
        announce: &'a dyn Fn(&Step),
    ) -> StepRunner<'a> {
        StepRunner { unit, config, daemon, announce, notes: Vec::new(), has_retired: false, may_have_lost: false }
    }

    /// Whether the daemon's generation was told to drain: it does not take new connections any more.
    pub(super) fn has_retired(&self) -> bool {
        self.has_retired
    }

    /// Whether a note tells of connections that may be lost.
    pub(super) fn may_have_lost(&self) -> bool {
        self.may_have_lost
    }

    /// What the steps found out for the operator, a sentence each.
    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes
    }

    /// Takes the steps up to the first that fails.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) async fn run(&mut self, steps: &[Step]) -> Result<(), FailedStep> {
        for step in steps {
            (self.announce)(step);
            self.take(step).await.map_err(|reason| FailedStep { step: first_line(step), reason })?;
        }
        Ok(())
    }

    async fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Write { path, text } => write(path, text).map_err(|error| error.to_string()),
            Step::Remove { path } => remove(path).map_err(|error| error.to_string()),
            Step::Systemctl { words } => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                systemd::systemctl(&words).map(drop).map_err(|error| error.to_string())
            }
            Step::Adopted { pid } => self.check_adopted(*pid),
            Step::Answers { socket } => check_answer(socket).await,
            Step::Reload => self.daemon.reload(),
            Step::Retire { pid } => self.retire(*pid),
        }
    }

    fn check_adopted(&self, pid: u32) -> Result<(), String> {
        let status = self.daemon.status()?;
        match status.main.serving {
            Some(serving) if serving.pid != pid => {
                Err(format!("the daemon has adopted another process ({})", serving.pid))
            }
            Some(serving) => check_custody(&serving, &status.main.custody),
            None => Err("the daemon has adopted nothing".into()),
        }
    }

    /// Tells the daemon's generation to drain, now that the unit's own HAProxy serves. Notes each address that HAProxy bound
    /// again instead of sharing the socket.
    fn retire(&mut self, pid: u32) -> Result<(), String> {
        let main_pid = systemd::unit(&self.unit.name).map_err(|error| error.to_string())?.main_pid();
        let main_pid = main_pid.filter(|main_pid| *main_pid != pid).ok_or("the unit has no main process")?;
        let shared: HashSet<u64> = process::sockets_of(&process::family(main_pid)).into_keys().collect();
        let is_private = |address: &Address| matches!(address, Address::Unix(path) if is_private_socket(&self.config.runtime_dir, path));
        let (private, public): (Vec<_>, Vec<_>) =
            listeners(pid)?.into_iter().partition(|listener| is_private(&listener.address));
        let private: Vec<u64> = private.into_iter().map(|listener| listener.inode).collect();
        let bound_again = public.into_iter().filter(|listener| !shared.contains(&listener.inode));
        let note = |listener: ListenSocket| {
            format!(
                "{} was bound again instead of passed: connections that were queued on the old socket at that moment may be lost",
                listener.address
            )
        };
        let bound_again: Vec<String> = bound_again.map(note).collect();
        self.may_have_lost |= !bound_again.is_empty();
        self.notes.extend(bound_again);
        let generation = process::start_time(pid).and_then(|start_time| Handle::adopt(pid, start_time));
        match generation {
            Some(generation) => {
                tell_to_drain(&generation, &private);
                self.has_retired = true;
            }
            None => self.notes.push(format!("process {pid} had ended already")),
        }
        Ok(())
    }
}

/// Asks HAProxy on its stats socket. A worker that hangs on one of its listeners does not answer there either.
async fn check_answer(socket: &Path) -> Result<(), String> {
    let answer = runtime_api::info(socket, ANSWER_TIMEOUT).await;
    answer.map(drop).map_err(|error| format!("HAProxy does not answer on {}: {error}", socket.display()))
}

/// Checks that all listeners are in custody. The first reload could not pass a socket that is not.
fn check_custody(serving: &Serving, custody: &[ListenerStatus]) -> Result<(), String> {
    let is_kept = |listener: &&ListenerStatus| custody.iter().any(|kept| kept.inode == listener.inode);
    match serving.listeners.iter().find(|listener| !is_kept(listener)) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "{} could not be taken into custody (this needs Linux 5.6 and CAP_SYS_PTRACE, or `expose-fd listeners` on HAProxy's \
             stats socket), so the first reload could not be proven",
            missing.address
        )),
    }
}

/// The TCP and unix listeners of a HAProxy: those of its master and of its workers.
fn listeners(pid: u32) -> Result<Vec<ListenSocket>, String> {
    let sockets = process::sockets_of(&process::family(pid));
    let all = sock_diag::listeners().map_err(|error| error.to_string())?;
    Ok(all.into_iter().filter(|listener| sockets.contains_key(&listener.inode)).collect())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // systemd reads what ends with `.conf`, and never half a file.
    write_whole(path, text.as_bytes())
}

/// Removes a file that may be missing. Removes its drop-in directory, too, if that is empty afterwards.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let _ = fs::remove_file(begun(path));
    let directory = path.parent().filter(|directory| directory.to_string_lossy().ends_with(".service.d"));
    directory.into_iter().for_each(|directory| drop(fs::remove_dir(directory)));
    Ok(())
}

fn first_line(step: &Step) -> String {
    let text = step.to_string();
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}
