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

/// How long a serving worker may take to answer `show info`.
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

/// Why no worker with a master was found.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// The configuration names no stats socket.
    #[error(
        "HAProxy's configuration has no `stats socket` with a path that is written out there, by which its worker could be found; \
         add `stats socket /run/haproxy/admin.sock level admin` to its global section"
    )]
    NoSocket,
    /// No process answers on these stats sockets.
    #[error("no HAProxy answers on {0}; start its unit, whose configuration must have that stats socket")]
    Silent(String),
    /// The process with this pid does not have the socket. The answer may come from another pid namespace.
    #[error("{socket} answers as process {pid}, but no such process listens there (another pid namespace?)")]
    Elsewhere {
        /// The socket.
        socket: String,
        /// The pid in the answer.
        pid: u32,
    },
    /// The process that answers has no master.
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
    /// HAProxy before 1.8 has no master: SIGUSR2, which asks a master to reload, would end the process.
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
    /// The process that answers does not run the configured program.
    #[error(
        "who answers on {socket} (process {pid}) runs {program}, and haproxy.binary is {binary}: it is not asked for anything; if it is \
         the HAProxy that is meant, name its program there"
    )]
    AnotherProgram {
        /// The socket.
        socket: String,
        /// The process.
        pid: u32,
        /// The program that the process runs.
        program: String,
        /// The value of `haproxy.binary`.
        binary: String,
    },
    /// The kernel did not list the listeners (sock_diag).
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
}

/// Looks for a worker that serves and whose pid is `wanted`, by the stats sockets of its configuration.
///
/// # Errors
/// The reason for the first stats socket whose process is `wanted` but is not such a worker. [`Absent::Silent`] if there is no such process,
/// [`Absent::NoSocket`] without stats sockets.
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

/// Checks that the process `worker` has the stats socket and runs HAProxy, because a process can claim any pid in its answer.
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

/// Compares the file names only. After the start of the program, an upgrade may have replaced the file or changed the target of the link.
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

/// The answer of the master's CLI to `reload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The new worker serves.
    Done,
    /// No new worker serves. HAProxy's messages say why.
    Failed(Vec<String>),
    /// No answer: a HAProxy before 2.7 closes the connection and begins the reload.
    Nothing,
    /// The socket is not a master's CLI, or that CLI may not reload. The text is its answer.
    Refused(String),
}

/// Asks the master to reload, and waits for its answer. From 2.7 on the master answers when the new worker is ready.
///
/// # Errors
/// The request could not be sent, so the master does not reload.
pub async fn reload(cli: &Path) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(cli).await?;
    stream.write_all(b"reload\n").await?;
    let mut answer = Vec::new();
    // A master that reloads at once closes the connection. A read error then does not mean that the request was lost.
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

/// Identifies a master's program image. The master executes its program again with each reload. Its pid and its start time stay the same, so
/// they cannot tell two images apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    stack: Option<u64>,
    /// The master is in wait mode. Before 3.1 a master executes itself once more, into this mode, when the new worker is ready or has failed.
    pub waits: bool,
}

impl Image {
    /// The image that this master runs now.
    pub fn from_master(master: u32) -> Image {
        let waits = process::environment(master, "HAPROXY_MWORKER_WAIT_ONLY").is_some_and(|value| value == "1");
        Image { stack: process::stack_start(master), waits }
    }

    /// Whether this image differs from `before`. Without address space randomisation all images look the same, and the
    /// result is false.
    pub fn is_another(self, before: Image) -> bool {
        self.stack != before.stack
    }
}

/// The children of the master that run HAProxy. Other programs are left out.
pub fn workers(master: u32) -> Vec<u32> {
    Crew::from_root(master).workers.into_iter().map(|(pid, _)| pid).collect()
}

/// Tells a HAProxy to close its listeners, and to end when its last connection has ended. `sockets` are listeners of this HAProxy. If the
/// root process has one of them, it serves by itself; a master has none.
///
/// A master passes SIGUSR1 on to the programs of its `program` sections too (HAProxy 2.0 to 3.2). The signal may end such a program. With
/// exit-on-failure, which is the default, the master then ends its workers and with them every session (`mworker_catch_sigchld`). So if there
/// are programs, the signal is sent to the workers and not to the master.
pub fn tell_to_drain(root: &Handle, sockets: &[u64]) {
    match workers_to_be_told(root.pid(), sockets) {
        Some(workers) => {
            workers.into_iter().for_each(|(pid, start_time)| process::kill_if_same(pid, start_time, Signal::USR1));
        }
        None => root.signal(Signal::USR1),
    }
}

/// The workers, by pid and start time, if SIGUSR1 must be sent to them and not to their master (see [`tell_to_drain`]). Otherwise `None`.
pub fn workers_to_be_told(root: u32, sockets: &[u64]) -> Option<Vec<(u32, u64)>> {
    let crew = Crew::from_root(root);
    // Reading the sockets of a process with many connections takes long. So they are read only if the other conditions hold.
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

/// Whether a master has no workers left, but still has programs. Without exit-on-failure, or when all workers ended without a failure, the
/// master does not end until these programs end.
pub fn has_programs_alone(master: u32) -> bool {
    let crew = Crew::from_root(master);
    crew.workers.is_empty() && crew.has_others
}

/// The children of a HAProxy.
struct Crew {
    /// The children that run HAProxy, by pid and start time.
    workers: Vec<(u32, u64)>,
    /// Whether a child runs another program, or a program that may not be read.
    has_others: bool,
}

impl Crew {
    fn from_root(root: u32) -> Crew {
        let program = process::executable(root);
        let mut crew = Crew { workers: Vec::new(), has_others: false };
        for pid in process::tree(root).into_iter().filter(|pid| process::parent(*pid) == Some(root)) {
            // A child that has ended has no start time.
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
