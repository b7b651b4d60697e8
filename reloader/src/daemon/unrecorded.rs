//! Finds generations that are in no record: their daemon was killed between the start and the record, or the record is lost. Any user may run a
//! process with any command line, so a process counts as ours only by what the daemon alone can have given it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::fs::generation_files::{GenerationFiles, number_of};
use crate::haproxy::inspect::stats_socket_inode;
use crate::kernel::sock_diag;
use crate::process;
use crate::supervision::records::{GenerationRecord, State};
use crate::supervision::{Supervisor, since_epoch};

/// Adds unrecorded generations to the recorded ones. Where the recorded process of a number lives, no other process has that number.
pub(super) fn with_unrecorded(supervisor: &Supervisor, recorded: Vec<GenerationRecord>) -> Vec<GenerationRecord> {
    let place = supervisor.place();
    let mut all = recorded;
    let lives = |record: &GenerationRecord| process::start_time(record.pid) == Some(record.start_time);
    let taken: Vec<u64> = all.iter().filter(|record| lives(record)).map(|record| record.number).collect();
    let unrecorded = if supervisor.server().notes_its_pid() { noted(place) } else { haproxies(place) };
    for (number, pid, start_time) in unrecorded {
        if taken.contains(&number) || all.iter().any(|record| record.number == number && record.pid == pid) {
            continue;
        }
        let socket = GenerationFiles::new(place, number).socket;
        let (config, since) = ("found running".into(), since_epoch(SystemTime::now()));
        let (state, retired) = (State::Starting, None);
        let (noreuseport, stop, has_workers) = (false, None, false);
        all.push(GenerationRecord {
            number,
            pid,
            start_time,
            has_workers,
            state,
            socket,
            config,
            since,
            retired,
            noreuseport,
            binds_as: supervisor.server().binds_as().ok(),
            hard_stop_after_ms: None,
            grace_ms: None,
            stop,
            end_is_recorded: false,
        });
    }
    all
}

/// Number, pid and start time of the HAProxy processes of this runtime-dir. Programs that one of them runs have inherited its log.
fn haproxies(place: &Path) -> Vec<(u64, u32, u64)> {
    let found = process::pids().into_iter();
    let found: Vec<(u64, u32, u64)> =
        found.filter_map(|pid| Some((haproxy_generation_of(place, pid)?, pid, process::start_time(pid)?))).collect();
    let is_below_another = |(number, pid, _): &(u64, u32, u64)| {
        found.iter().any(|(other, root, _)| other == number && root != pid && process::is_descendant(*pid, *root))
    };
    found.iter().filter(|one| !is_below_another(one)).copied().collect()
}

/// The same of other servers, as `cli/launch.rs` notes it before the process becomes the server, in a file that only root can write.
fn noted(place: &Path) -> Vec<(u64, u32, u64)> {
    let read = |path: &Path| {
        let number = number_of(place, path, "cfg")?;
        let text = fs::read_to_string(path).ok()?;
        let (pid, start_time) = text.trim_end().split_once(' ')?;
        Some((number, pid.parse().ok()?, start_time.parse().ok()?))
    };
    let files = fs::read_dir(place).into_iter().flatten().flatten();
    files.filter_map(|file| read(&file.path())).collect()
}

/// The generation of a HAProxy process. The process counts where its command line names a configuration file of this runtime-dir, and where it
/// has the log or the stats socket of that generation.
fn haproxy_generation_of(place: &Path, pid: u32) -> Option<u64> {
    let words = process::command_line(pid).unwrap_or_default();
    let number = number_in(place, &words)?;
    let is_worker = process::parent(pid).and_then(process::command_line).is_some_and(|parent| parent == words);
    (!is_worker && process::shares_processes(pid) && is_ours(&GenerationFiles::new(place, number), pid))
        .then_some(number)
}

/// Reads the number from a command line as `launch::command` writes it. Other programs may name the file on their command line too.
fn number_in(place: &Path, words: &[String]) -> Option<u64> {
    let is_ours = words.get(1).is_some_and(|word| word == "-db");
    let mut files = words.windows(2).filter(|pair| is_ours && pair[0] == "-f");
    files.next_back().and_then(|pair| number_of(place, Path::new(&pair[1]), "cfg"))
}

/// Whether the process has the log or the socket of the generation, which only the daemon can have given to it.
fn is_ours(files: &GenerationFiles, pid: u32) -> bool {
    writes_log(&files.log, pid) || listens_on(&files.socket, pid)
}

/// Whether the standard error of the process is the log that the daemon made for this generation. Only root can open that file. The log may have
/// been deleted since, together with everything else in runtime-dir.
fn writes_log(log: &Path, pid: u32) -> bool {
    let descriptor = format!("/proc/{pid}/fd/2");
    let Ok(written) = fs::metadata(&descriptor) else { return false };
    match fs::symlink_metadata(log) {
        Ok(file) => file.is_file() && (file.dev(), file.ino()) == (written.dev(), written.ino()),
        Err(_) => {
            let deleted = format!("{} (deleted)", log.display());
            is_private(&written)
                && written.nlink() == 0
                && fs::read_link(&descriptor).is_ok_and(|target| target == Path::new(&deleted))
        }
    }
}

fn is_private(file: &Metadata) -> bool {
    let own = rustix::process::geteuid().as_raw();
    file.is_file() && file.uid() == own && file.mode() & 0o077 == 0
}

/// Whether the process listens on the private stats socket. This is asked because HAProxy with `-q` has no standard error. The path of a socket
/// proves nothing, because other mount namespaces have their own paths. The file of the socket proves it.
fn listens_on(socket: &Path, pid: u32) -> bool {
    let Ok(file) = fs::symlink_metadata(socket) else { return false };
    let sockets = process::sockets_of(&process::family(pid));
    let machine = sock_diag::unix_listeners().unwrap_or_default();
    let inode = stats_socket_inode(socket, &machine, &sockets);
    let bound = inode.and_then(|inode| sock_diag::bound_file(inode).ok().flatten());
    bound.is_some_and(|bound| bound.inode == file.ino() as u32)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::fs::generation_files::{LAST_NUMBER, create_private};

    fn words(number: &str) -> Vec<String> {
        let file = format!("/run/r/generation-{number}.cfg");
        ["haproxy", "-db", "-f", "/etc/haproxy.cfg", "-f", &file].map(String::from).to_vec()
    }

    #[test]
    fn impossible_generation_numbers_are_ignored() {
        let place = Path::new("/run/r");
        assert_eq!(number_in(place, &words("7")), Some(7));
        assert_eq!(number_in(place, &words(&LAST_NUMBER.to_string())), Some(LAST_NUMBER));
        for number in [&u64::MAX.to_string(), "18446744073709551616", "-1", ""] {
            assert_eq!(number_in(place, &words(number)), None, "{number}");
        }
        assert_eq!(number_in(Path::new("/run/other"), &words("7")), None);
    }

    fn writing_to(file: Stdio) -> Child {
        Command::new("sleep").arg("1000").stderr(file).spawn().unwrap()
    }

    #[test]
    fn only_the_process_that_writes_the_log_counts_as_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (log, other) = (dir.path().join("generation-7.log"), dir.path().join("other.log"));
        let mut ours = writing_to(create_private(&log).unwrap().into());
        let mut private = writing_to(create_private(&other).unwrap().into());
        let mut null = writing_to(Stdio::null());
        assert!(writes_log(&log, ours.id()));
        assert!(!writes_log(&log, private.id()) && !writes_log(&log, null.id()));
        for file in [&log, &other] {
            fs::remove_file(file).unwrap();
        }
        assert!(writes_log(&log, ours.id()), "deleted");
        assert!(!writes_log(&log, private.id()));
        create_private(&log).unwrap();
        assert!(!writes_log(&log, ours.id()), "it is another generation's by now");
        for child in [&mut ours, &mut private, &mut null] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
