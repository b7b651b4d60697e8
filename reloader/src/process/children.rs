//! Tells this process's own children from orphans, so that PID 1 can reap the orphans.
//!
//! PID 1 inherits every process whose parent has ended. Each stays a zombie until PID 1 waits for it. A wait for any child
//! (`waitpid(-1)`) would also take the status of a child that another part of the daemon waits for. So this module lists each child
//! that it starts, and removes it when its status was taken. A child that is not on the list is an orphan, unless one is being started.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, waitid, waitpid};

use super::procfs::own_children;

/// The children that a part of this process waits for. It is locked while a status is taken, because the kernel may give the pid to another
/// process as soon as the status was taken. It is not locked while a child is started, which may take long in a thread beside the loop.
static OWN: Mutex<Own> = Mutex::new(Own { pids: BTreeSet::new(), starting: 0 });

struct Own {
    pids: BTreeSet<u32>,
    /// How many children are being started. Such a child may exist, and is not among the pids yet.
    starting: usize,
}

fn own() -> MutexGuard<'static, Own> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child. [`try_wait`], [`wait`] or a [`super::Handle`] must take its status.
///
/// # Errors
/// The errors of [`Command::spawn`].
#[expect(clippy::disallowed_methods, reason = "the one place: the child is on the list before orphans are reaped")]
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    own().starting += 1;
    let child = command.spawn();
    let mut own = own();
    own.starting -= 1;
    own.pids.extend(child.as_ref().ok().map(Child::id));
    child
}

/// Takes the status of a child that [`spawn`] started. `None` while it runs.
///
/// # Errors
/// The errors of [`Child::try_wait`].
pub fn try_wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let mut own = own();
    let ended = child.try_wait()?;
    if ended.is_some() {
        own.pids.remove(&child.id());
    }
    Ok(ended)
}

/// Waits for the end of a child that [`spawn`] started, and takes its status. It blocks.
///
/// # Errors
/// The errors of waitid(2).
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = try_wait(child)? {
            return Ok(status);
        }
        // NOWAIT leaves the status to `try_wait`, so that the list needs no lock during the wait.
        let pid = Pid::from_child(child);
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Runs a command to its end on the standard streams of this process. It blocks.
///
/// # Errors
/// The command cannot be started.
pub fn status(command: &mut Command) -> io::Result<ExitStatus> {
    wait(&mut spawn(command)?)
}

/// Runs a command to its end. Returns its status, its standard output and its standard error. It blocks.
///
/// # Errors
/// The command cannot be started, or its output cannot be read.
pub fn output_and_errors(command: &mut Command) -> io::Result<Output> {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    // A child stops when it fills a pipe that is not read. So each pipe has a thread.
    let read = std::thread::scope(|scope| {
        let errors = scope.spawn(|| errors.map_or(Ok(0), |mut errors| errors.read_to_end(&mut stderr)));
        let output = output.map_or(Ok(0), |mut output| output.read_to_end(&mut stdout));
        output.and(errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let status = wait(&mut child)?;
    read?;
    Ok(Output { status, stdout, stderr })
}

/// Takes the status of a child on the list, as waitpid(2) with WNOHANG: `None` while the child runs.
pub(super) fn take_status(pid: u32) -> rustix::io::Result<Option<WaitStatus>> {
    let mut own = own();
    let taken = waitpid(raw(pid), WaitOptions::NOHANG);
    if !matches!(taken, Ok(None)) {
        own.pids.remove(&pid);
    }
    Ok(taken?.map(|(_, status)| status))
}

/// Takes a running child off the list: nothing here waits for it any more, so it is an orphan when it ends.
pub(super) fn disown(pid: u32) {
    own().pids.remove(&pid);
}

/// Reaps all orphans that have ended, and returns their pids. None while a child is being started: call it again then. It calls waitpid(2) for every
/// orphan, ended or not, because `/proc` may hide the state of another user's process.
pub fn reap_orphans() -> Vec<u32> {
    let own = own();
    if own.starting > 0 {
        return Vec::new();
    }
    let mut orphans = orphans(&own_children(), &own.pids);
    orphans.retain(|pid| matches!(waitpid(raw(*pid), WaitOptions::NOHANG), Ok(Some(_))));
    orphans
}

/// The children that are not in `own`. Pure.
fn orphans(children: &[u32], own: &BTreeSet<u32>) -> Vec<u32> {
    children.iter().copied().filter(|pid| !own.contains(pid)).collect()
}

fn raw(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_not_on_the_list_is_an_orphan() {
        assert_eq!(orphans(&[7, 8, 9], &BTreeSet::from([8, 20])), [7, 9]);
        assert!(orphans(&[8], &BTreeSet::from([8])).is_empty());
    }

    #[test]
    fn reaping_orphans_keeps_the_status_of_own_children() {
        let mut child = spawn(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap();
        let id = WaitId::Pid(Pid::from_child(&child));
        waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(!orphans(&own_children(), &own().pids).contains(&child.id()));
        assert_eq!(wait(&mut child).unwrap().code(), Some(7));
        assert!(!own().pids.contains(&child.id()));
    }

    #[test]
    fn child_not_on_the_list_is_an_orphan() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        assert!(orphans(&own_children(), &own().pids).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn both_streams_are_read_at_the_same_time() {
        // 200 kB alternately on both streams: more than a pipe holds.
        let script = "i=0; while [ $i -lt 200 ]; do printf %1000s x; printf %1000s y >&2; i=$((i+1)); done; exit 4";
        let output = output_and_errors(Command::new("/bin/sh").args(["-c", script])).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len(), output.status.code()), (200_000, 200_000, Some(4)));
    }
}
