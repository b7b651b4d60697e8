//! The broker: answers HAProxy's `_getsocks` from custody, so that `-x BROKER` gives a new generation its listeners.
//!
//! It answers only the process tree that the daemon just started, and that tree only until one transfer is complete.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixListener;

use super::client::send_sockets;
use super::codec;
use crate::process;
use crate::sockets::custody::OfferedSocket;

/// How long a client may stop in the middle of a transfer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// The broker's socket and what it offers at present.
#[derive(Debug)]
pub struct Broker {
    path: PathBuf,
    offer: Arc<Mutex<Option<Offer>>>,
    /// Locked while it is not known yet which process may ask.
    turn: Arc<Turn>,
    task: tokio::task::AbortHandle,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Turn = tokio::sync::Mutex<()>;

#[derive(Debug)]
struct Offer {
    /// The root of the tree that may ask.
    root: u32,
    sockets: Arc<Vec<OfferedSocket>>,
    state: Transfer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Waiting,
    Running,
    Complete,
}

impl Broker {
    /// Creates the socket (mode 0600) in a directory of its own (mode 0700) below `runtime_dir` and answers on it
    /// from a task of the current runtime.
    ///
    /// # Errors
    /// Where the directory or the socket cannot be created.
    pub fn listen(runtime_dir: &Path) -> io::Result<Broker> {
        let directory = runtime_dir.join("broker");
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700))?,
        }
        let path = directory.join("getsocks.sock");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let offer = Arc::new(Mutex::new(None));
        let turn = Arc::<Turn>::default();
        let task = tokio::spawn(accept(listener, offer.clone(), turn.clone())).abort_handle();
        Ok(Broker { path, offer, turn, task })
    }

    /// The path for `-x`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets clients wait until the guard is dropped. Use it from before the start of a process until the [`offer`](Broker::offer) to it: the process may
    /// connect at once.
    pub async fn let_clients_wait(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Offers `sockets` to the tree of `root` until [`Broker::withdraw`].
    pub fn offer(&self, root: u32, sockets: Vec<OfferedSocket>) {
        *self.lock() = Some(Offer { root, sockets: Arc::new(sockets), state: Transfer::Waiting });
    }

    /// Ends the offer. True if a client took it. A transfer that still runs counts as taken: the receiver may become ready before the
    /// broker has read its last acknowledgement.
    pub fn withdraw(&self) -> bool {
        self.lock().take().is_some_and(|offer| offer.state != Transfer::Waiting)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Offer>> {
        self.offer.lock().expect("no panic under this lock")
    }
}

async fn accept(listener: UnixListener, offer: Arc<Mutex<Option<Offer>>>, turn: Arc<Turn>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely this process has no free descriptor. Then accept(2) works again only after other connections end.
                log::error!("broker: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let peer =
            stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        drop(turn.lock().await);
        match begin(&offer, peer) {
            Ok((root, sockets)) => {
                let offer = offer.clone();
                tokio::task::spawn_blocking(move || {
                    let stream = stream.into_std();
                    let served = match &stream {
                        Ok(stream) => serve(stream, &sockets),
                        Err(error) => Err(error.kind().into()),
                    };
                    // This comes before the stream is closed, because a client may ask again as soon as it sees the close.
                    finish(&offer, root, &served);
                    drop(stream);
                    match served {
                        Ok(()) => log::debug!("broker: passed {} sockets to process {peer}", sockets.len()),
                        Err(error) => log::warn!("broker: transfer to process {peer} failed: {error}"),
                    }
                });
            }
            Err(refusal) => log::warn!("broker: process {peer} refused: {refusal}"),
        }
    }
}

fn begin(offer: &Mutex<Option<Offer>>, peer: u32) -> Result<(u32, Arc<Vec<OfferedSocket>>), &'static str> {
    let mut offer = offer.lock().expect("no panic under this lock");
    let Some(offer) = offer.as_mut() else { return Err("no generation is being started") };
    if !process::is_descendant(peer, offer.root) {
        return Err("it does not belong to the generation being started");
    }
    match offer.state {
        Transfer::Waiting => {
            offer.state = Transfer::Running;
            Ok((offer.root, offer.sockets.clone()))
        }
        Transfer::Running => Err("a transfer is under way"),
        Transfer::Complete => Err("the generation has its sockets already"),
    }
}

fn finish(offer: &Mutex<Option<Offer>>, root: u32, served: &io::Result<()>) {
    if let Some(offer) = offer.lock().expect("no panic under this lock").as_mut().filter(|offer| offer.root == root) {
        offer.state = if served.is_ok() { Transfer::Complete } else { Transfer::Waiting };
    }
}

fn serve(stream: &UnixStream, sockets: &[OfferedSocket]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TRANSFER_TIMEOUT))?;
    stream.set_write_timeout(Some(TRANSFER_TIMEOUT))?;
    let mut request = [0; codec::REQUEST.len()];
    (&mut &*stream).read_exact(&mut request)?;
    if request != codec::REQUEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not ask `_getsocks`"));
    }
    let borrowed: Vec<_> = sockets.iter().map(|(fd, record)| (fd.as_fd(), record.clone())).collect();
    send_sockets(stream, &borrowed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::haproxy::client::{ClientError, get_sockets};
    use crate::model::SocketMetadata;

    /// Starts a broker that answers on a thread of its own until the process ends.
    fn broker() -> (tempfile::TempDir, Broker) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = runtime.block_on(async { Broker::listen(directory.path()) }).unwrap();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        (directory, broker)
    }

    fn listeners(count: usize) -> Vec<OfferedSocket> {
        let pipe = Arc::new(OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
        (0..count)
            .map(|number| (pipe.clone(), SocketMetadata { options: number as i32, ..SocketMetadata::default() }))
            .collect()
    }

    #[test]
    fn child_gets_every_socket_once_and_in_order() {
        let (_directory, broker) = broker();
        broker.offer(std::process::id(), listeners(600));
        let taken = get_sockets(broker.path()).unwrap();
        assert_eq!(taken.len(), 600);
        assert!(taken.iter().enumerate().all(|(number, (_, record))| record.options == number as i32));
        assert!(matches!(get_sockets(broker.path()), Err(ClientError::NotExposed)), "a second transfer is refused");
        assert!(broker.withdraw());
    }

    #[test]
    fn process_outside_the_tree_gets_nothing() {
        let (_directory, broker) = broker();
        // This process does not descend from its own child.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        broker.offer(child.id(), listeners(1));
        let answer = get_sockets(broker.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(answer, Err(ClientError::NotExposed)));
        assert!(!broker.withdraw());
        assert!(matches!(get_sockets(broker.path()), Err(ClientError::NotExposed)), "nothing is offered now");
    }

    #[test]
    fn child_that_asks_before_the_offer_waits_for_it() {
        let (_directory, broker) = broker();
        let waiting = broker.turn.blocking_lock();
        let mut early = UnixStream::connect(broker.path()).unwrap();
        io::Write::write_all(&mut early, codec::REQUEST).unwrap();
        early.set_nonblocking(true).unwrap();
        let error = early.read(&mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        broker.offer(std::process::id(), listeners(1));
        drop(waiting);
        early.set_nonblocking(false).unwrap();
        early.read_exact(&mut [0; 4]).unwrap();
    }

    #[test]
    fn malformed_request_and_half_transfer_leave_the_offer_open() {
        let (_directory, broker) = broker();
        broker.offer(std::process::id(), listeners(600));
        let mut rubbish = UnixStream::connect(broker.path()).unwrap();
        io::Write::write_all(&mut rubbish, b"show info\n").unwrap();
        assert_eq!(rubbish.read(&mut [0; 16]).unwrap_or(0), 0);
        let mut half = UnixStream::connect(broker.path()).unwrap();
        io::Write::write_all(&mut half, codec::REQUEST).unwrap();
        half.read_exact(&mut [0; 4]).unwrap();
        drop(half);
        let taken = (0..100)
            .find_map(|_| get_sockets(broker.path()).ok())
            .expect("the offer stands until one transfer is complete");
        assert_eq!(taken.len(), 600);
    }
}
