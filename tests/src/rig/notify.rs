//! The service manager's side of sd_notify(3), with an fd store where a test asks for one.

use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A file descriptor that was given to the store, and its name.
pub(super) type Stored = (String, OwnedFd);

#[derive(Default)]
struct Heard {
    lines: Vec<String>,
    stored: Vec<Stored>,
}

/// As slow as a systemd that has other work: who does not wait until it has closed a socket is found out.
const BUSY: Duration = Duration::from_millis(100);

/// Nothing came, or a signal did.
const PASSING: [ErrorKind; 2] = [ErrorKind::WouldBlock, ErrorKind::Interrupted];

/// Listens for as long as it lives: a daemon whose messages nobody takes would block.
pub(super) struct Notify {
    pub(super) path: PathBuf,
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notify {
    pub(super) fn listen(path: &Path, store: bool) -> Notify {
        let socket = UnixDatagram::bind(path).expect("binding the notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("SO_RCVTIMEO");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (ours, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                receive(&socket, store, &ours);
            }
        });
        Notify { path: path.to_owned(), heard, stop, thread: Some(thread) }
    }

    /// Every assignment so far, in order: `READY=1`, `STATUS=…`.
    pub(super) fn lines(&self) -> Vec<String> {
        lock(&self.heard).lines.clone()
    }

    /// Forget the assignments, before a daemon is started that shall say them anew.
    pub(super) fn forget(&self) {
        lock(&self.heard).lines.clear();
    }

    /// Duplicates of what is in the store, as the service manager passes them at a start.
    pub(super) fn stored(&self) -> Vec<Stored> {
        let copy = |(name, fd): &Stored| (name.clone(), fd.try_clone().expect("dup"));
        lock(&self.heard).stored.iter().map(copy).collect()
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(socket: &UnixDatagram, store: bool, heard: &Mutex<Heard>) {
    let mut bytes = [0; 8192];
    // SCM_MAX_FD
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let result = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let count = match result {
        Ok(message) => message.bytes,
        Err(error) if PASSING.contains(&std::io::Error::from(error).kind()) => return,
        Err(error) => panic!("the notify socket: {error}"),
    };
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = rights.flatten().collect();
    let text = String::from_utf8_lossy(&bytes[..count]);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.iter().any(|line| line == "FDSTOREREMOVE=1") {
        std::thread::sleep(BUSY);
    }
    let mut heard = lock(heard);
    let value = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)).unwrap_or("stored").to_owned();
    let name = value("FDNAME=");
    if lines.iter().any(|line| line == "FDSTOREREMOVE=1") {
        heard.stored.retain(|(stored, _)| *stored != name);
    }
    // What is not stored is closed here: no process but the server's and the daemon may hold a listener.
    if store && lines.iter().any(|line| line == "FDSTORE=1") {
        heard.stored.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
    }
    heard.lines.extend(lines);
}
