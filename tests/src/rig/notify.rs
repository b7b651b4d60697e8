//! Plays the service manager's side of sd_notify(3), with an fd store if a test asks for one.

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

/// The name and the descriptor that were given to the store.
pub(super) type Stored = (String, OwnedFd);

#[derive(Default)]
struct Messages {
    lines: Vec<String>,
    stored: Vec<Stored>,
}

/// The delay before a message is handled, as in a busy systemd. A daemon that does not wait until systemd has closed a
/// socket fails because of it.
const BUSY: Duration = Duration::from_millis(100);

/// Errors after which the receiver reads again: no message was there, or a signal came.
const PASSING: [ErrorKind; 2] = [ErrorKind::WouldBlock, ErrorKind::Interrupted];

/// Receives messages for as long as it lives. A daemon whose messages are not received would block.
pub(super) struct Notify {
    pub(super) path: PathBuf,
    messages: Arc<Mutex<Messages>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notify {
    pub(super) fn listen(path: &Path, store: bool) -> Notify {
        let socket = UnixDatagram::bind(path).expect("binding the notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("SO_RCVTIMEO");
        let messages = Arc::new(Mutex::new(Messages::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (received, stopped) = (Arc::clone(&messages), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                receive(&socket, store, &received);
            }
        });
        Notify { path: path.to_owned(), messages, stop, thread: Some(thread) }
    }

    /// Every assignment so far, in order: `READY=1`, `STATUS=…`.
    pub(super) fn lines(&self) -> Vec<String> {
        lock(&self.messages).lines.clone()
    }

    /// Forgets the assignments, before a daemon is started that must send them again.
    pub(super) fn forget(&self) {
        lock(&self.messages).lines.clear();
    }

    /// Duplicates of the stored descriptors, as the service manager passes them at a start.
    pub(super) fn stored(&self) -> Vec<Stored> {
        let copy = |(name, fd): &Stored| (name.clone(), fd.try_clone().expect("dup"));
        lock(&self.messages).stored.iter().map(copy).collect()
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

fn lock(messages: &Mutex<Messages>) -> MutexGuard<'_, Messages> {
    messages.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(socket: &UnixDatagram, store: bool, messages: &Mutex<Messages>) {
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
    let mut messages = lock(messages);
    let value = |key: &str| lines.iter().find_map(|line| line.strip_prefix(key)).unwrap_or("stored").to_owned();
    let name = value("FDNAME=");
    if lines.iter().any(|line| line == "FDSTOREREMOVE=1") {
        messages.stored.retain(|(stored, _)| *stored != name);
    }
    // A descriptor that is not stored is closed here: only the server's processes and the daemon may have a listener
    // open.
    if store && lines.iter().any(|line| line == "FDSTORE=1") {
        messages.stored.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
    }
    messages.lines.extend(lines);
}
