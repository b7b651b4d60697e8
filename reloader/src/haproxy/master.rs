//! Finds and asks the master of a HAProxy in master-worker mode: which worker serves, who its master is, and how the master reloads.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::inspect::stats_socket_inode;
use super::runtime_api;
use super::version::Version;
use crate::kernel::sock_diag::{self, SockDiagError};
use crate::process::{self, Handle};

/// How long a worker that serves may take to say who it is.
const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// A worker that serves, and its master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The master's pid.
    pub master: u32,
    /// The worker's pid.
    pub worker: u32,
    /// The stats socket on which the worker answers.
    pub socket: PathBuf,
    /// The inode of that socket.
    pub inode: u64,
    /// The worker's version in its own words.
    pub version: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// Nothing to look by.
    #[error(
        "HAProxy's configuration has no `stats socket` with a path that is written out there, by which its worker could be found; \
         add `stats socket /run/haproxy/admin.sock level admin` to its global section"
    )]
    NoSocket,
    /// No process answers.
    #[error("no HAProxy answers on {0}; start its unit, whose configuration must have that stats socket")]
    Silent(String),
    /// Another process, or one of another pid namespace.
    #[error("{socket} answers as process {pid}, but no such process listens there (another pid namespace?)")]
    Elsewhere {
        /// The socket.
        socket: String,
        /// The pid that it names.
        pid: u32,
    },
    /// One process alone.
    #[error(
        "the HAProxy that answers on {socket} (process {pid}) has no master: a companion needs master-worker mode; start it with \
         -Ws, or set mode = \"supervised\""
    )]
    Alone {
        /// The socket.
        socket: String,
        /// The process.
        pid: u32,
    },
    /// Its parent would end by the signal that asks a master to reload.
    #[error(
        "the HAProxy that answers on {socket} (process {pid}) is of version {version}: master-worker mode came with 1.8, and before it \
         SIGUSR2 ends the process; set mode = \"supervised\""
    )]
    TooOld {
        /// The socket.
        socket: String,
        /// The process.
        pid: u32,
        /// Its version in its own words.
        version: String,
    },
    /// Another program.
    #[error(
        "who answers on {socket} (process {pid}) runs {program}, and haproxy.binary is {binary}: it is not asked for anything; if it is \
         the HAProxy that is meant, name its program there"
    )]
    AnotherProgram {
        /// The socket.
        socket: String,
        /// The process.
        pid: u32,
        /// What it runs.
        program: String,
        /// What the configuration says.
        binary: String,
    },
    /// The kernel did not tell.
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
}

/// Looks for a worker that serves and whose pid is `wanted`, by the stats sockets of its configuration.
///
/// # Errors
/// Why there is none: of several reasons the one that says most.
pub async fn find(sockets: &[PathBuf], binary: &Path, wanted: impl Fn(u32) -> bool) -> Result<Found, Absent> {
    if sockets.is_empty() {
        return Err(Absent::NoSocket);
    }
    let mut reason = None;
    for socket in sockets {
        let Ok(info) = runtime_api::info(socket, ANSWER_TIMEOUT).await else { continue };
        if !wanted(info.pid) {
            continue;
        }
        match located(socket, binary, info.pid, info.version) {
            Ok(found) => return Ok(found),
            Err(absent) => drop(reason.get_or_insert(absent)),
        }
    }
    let names: Vec<String> = sockets.iter().map(|socket| socket.display().to_string()).collect();
    Err(reason.unwrap_or_else(|| Absent::Silent(names.join(", "))))
}

/// A process that answers can claim any pid: it is the worker only if it has the socket on which it answered, and is a HAProxy.
fn located(socket: &Path, binary: &Path, worker: u32, version: String) -> Result<Found, Absent> {
    let name = || socket.display().to_string();
    let sockets = process::sockets_of(&[worker]);
    let Some(inode) = stats_socket_inode(socket, &sock_diag::listeners()?, &sockets) else {
        return Err(Absent::Elsewhere { socket: name(), pid: worker });
    };
    if Version::from_words(&version).is_none_or(|version| !version.at_least(1, 8)) {
        return Err(Absent::TooOld { socket: name(), pid: worker, version });
    }
    let program = process::executable(worker).unwrap_or_default();
    if !is_named_as(&program, binary) {
        let (program, binary) = (program.display().to_string(), binary.display().to_string());
        return Err(Absent::AnotherProgram { socket: name(), pid: worker, program, binary });
    }
    let master = root_of(worker);
    if master == worker {
        return Err(Absent::Alone { socket: name(), pid: worker });
    }
    Ok(Found { master, worker, socket: socket.to_owned(), inode, version })
}

/// By the name alone: an upgrade may have put another file, or the target of a link elsewhere, in its place since it was started.
fn is_named_as(program: &Path, binary: &Path) -> bool {
    let target = binary.canonicalize().unwrap_or_default();
    program.file_name().is_some_and(|name| [binary, &target].iter().any(|known| known.file_name() == Some(name)))
}

/// The master of a worker, or the process itself: the topmost ancestor that runs the same program.
pub fn root_of(worker: u32) -> u32 {
    let program = process::executable(worker);
    let mut root = worker;
    while let Some(parent) = process::parent(root).filter(|parent| process::executable(*parent) == program) {
        root = parent;
    }
    root
}

/// What the master's CLI said to `reload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The new worker serves.
    Done,
    /// There is none, with HAProxy's own lines.
    Failed(Vec<String>),
    /// Nothing: a HAProxy before 2.7 closes the connection and begins.
    Nothing,
    /// It is not a master's CLI, or one that may not reload: its words.
    Refused(String),
}

/// Asks the master to reload, and waits for its answer, which from 2.7 on comes when the new worker is there.
///
/// # Errors
/// Where it could not be asked: nothing has happened then.
pub async fn reload(cli: &Path) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(cli).await?;
    stream.write_all(b"reload\n").await?;
    let mut answer = Vec::new();
    // A master that begins at once takes the connection with it: it has been asked all the same.
    let _ = stream.read_to_end(&mut answer).await;
    Ok(understood(&String::from_utf8_lossy(&answer)))
}

fn understood(answer: &str) -> Answer {
    let lines = || answer.lines().skip_while(|line| *line != "--").skip(1);
    let said = || lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match answer.lines().next().and_then(|line| line.trim().strip_prefix("Success=")) {
        Some("1") => Answer::Done,
        Some(_) => Answer::Failed(said()),
        None if answer.trim().is_empty() => Answer::Nothing,
        None => Answer::Refused(answer.trim().to_owned()),
    }
}

/// Identifies a master's program image: the master executes itself with each reload, and keeps its pid and its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    stack: Option<u64>,
    /// It only waits: before 3.1 a master executes itself once more when the worker is there, or when there will be none.
    pub waits: bool,
}

impl Image {
    /// Of this master now.
    pub fn from_master(master: u32) -> Image {
        let waits = process::environment(master, "HAPROXY_MWORKER_WAIT_ONLY").is_some_and(|value| value == "1");
        Image { stack: process::stack_start(master), waits }
    }

    /// Whether it is another image than `before`. Without address space randomisation two images cannot be told apart, and count as the same.
    pub fn is_another(self, before: Image) -> bool {
        self.stack != before.stack
    }
}

/// The processes that the master itself has forked, other programs left out.
pub fn workers(master: u32) -> Vec<u32> {
    Crew::from_root(master).workers.into_iter().map(|(pid, _)| pid).collect()
}

/// Tells a HAProxy to close its listeners, and to end when its last connection has. `sockets` are listeners of its own: a process that has
/// one of them serves by itself, and a master has none.
///
/// A master passes SIGUSR1 on to the programs of its `program` sections too (HAProxy 2.0 to 3.2). One that ends by it takes every session
/// along: with exit-on-failure, which is the default, the master then ends its workers (`mworker_catch_sigchld`). So where there are
/// programs, the workers are told and the master is not.
pub fn tell_to_drain(root: &Handle, sockets: &[u64]) {
    match workers_to_be_told(root.pid(), sockets) {
        Some(workers) => {
            workers.into_iter().for_each(|(pid, start_time)| process::kill_if_same(pid, start_time, Signal::USR1));
        }
        None => root.signal(Signal::USR1),
    }
}

/// The workers, by pid and start time, where SIGUSR1 has to go to them and not to their master, see [`tell_to_drain`].
pub fn workers_to_be_told(root: u32, sockets: &[u64]) -> Option<Vec<(u32, u64)>> {
    let crew = Crew::from_root(root);
    // The sockets of a process with many connections take a while to read, so they are read only where that matters.
    let serves_by_itself = || {
        let own = process::sockets_of(&[root]);
        sockets.iter().any(|inode| own.contains_key(inode))
    };
    (crew.has_others && !crew.workers.is_empty() && !serves_by_itself()).then_some(crew.workers)
}

/// Whether a master runs programs beside its workers.
pub fn runs_programs(master: u32) -> bool {
    Crew::from_root(master).has_others
}

/// Whether a master has no worker any more, and programs that keep it: without exit-on-failure, and after an end in good order, it waits
/// for them.
pub fn has_programs_alone(master: u32) -> bool {
    let crew = Crew::from_root(master);
    crew.workers.is_empty() && crew.has_others
}

/// The children of a HAProxy.
struct Crew {
    /// Those that run HAProxy, by pid and start time.
    workers: Vec<(u32, u64)>,
    /// There are others. One whose program may not be read counts as such.
    has_others: bool,
}

impl Crew {
    fn from_root(root: u32) -> Crew {
        let program = process::executable(root);
        let mut crew = Crew { workers: Vec::new(), has_others: false };
        for pid in process::tree(root).into_iter().filter(|pid| process::parent(*pid) == Some(root)) {
            // One that has ended has none.
            let Some(start_time) = process::start_time(pid) else { continue };
            match process::executable(pid) {
                found if found.is_some() && found == program => crew.workers.push((pid, start_time)),
                _ => crew.has_others = true,
            }
        }
        crew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_name() {
        let binary = Path::new("/usr/sbin/haproxy");
        assert!(is_named_as(Path::new("/opt/haproxy-2.8/sbin/haproxy"), binary));
        assert!(!is_named_as(Path::new("/usr/bin/python3.11"), binary));
        assert!(!is_named_as(Path::new(""), Path::new("")));
    }

    #[test]
    fn the_answer_of_each_version_is_understood() {
        // 2.8, shortened.
        let done = "Success=1\n--\n[NOTICE]   (26530) : New worker (26950) forked\n\n\n";
        assert_eq!(understood(done), Answer::Done);
        let failed = "Success=0\n--\n[ALERT]    (26530) : config : parsing [a.cfg:11] : unknown keyword 'x'\n[WARNING]  (26530) : Loading failure!\n\n\n";
        let Answer::Failed(lines) = understood(failed) else { panic!("{:?}", understood(failed)) };
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("unknown keyword"));
        // 2.6 and before.
        assert_eq!(understood(""), Answer::Nothing);
        assert_eq!(understood("Unknown command: reload\n"), Answer::Refused("Unknown command: reload".into()));
    }
}
