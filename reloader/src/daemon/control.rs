//! Serves the control socket: checks the peer, and gives the answers that need no service's loop.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size_force;
use rustix::process::Signal;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::DaemonError;
use super::active_clients::{ActiveClients, FAREWELL};
use super::events::{Event, pending_reply};
use super::protocol::{Reply, Request, read_frame, write_frame};
use crate::config::HAPROXY;
use crate::gate::hold::HoldRegistry;
use crate::haproxy::runtime_api;
use crate::process;
use crate::receipt::AskedBy;
use crate::supervision::status::{HoldStatus, ServiceStatus, Status};
use crate::supervision::{Published, StatusBoard};

/// How long a client may take to write its request, and HAProxy to answer for `status`.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the command line of a client may take to be read.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(100);
/// The longest request in bytes.
const LONGEST_REQUEST: u32 = 4096;

/// The control socket, removed from the file system when the daemon ends.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: Arc<UnixListener>,
    path: PathBuf,
    task: Option<tokio::task::AbortHandle>,
}

impl ControlSocket {
    /// Creates the socket: mode 0660, owned by root and the control group.
    pub(super) fn listen(path: &Path, group: u32) -> Result<ControlSocket, DaemonError> {
        let listener = listen(path, group).map_err(DaemonError::place("control-socket", path))?;
        Ok(ControlSocket { listener: Arc::new(listener), path: path.to_owned(), task: None })
    }

    /// Serves clients in a task of the current runtime.
    pub(super) fn serve(&mut self, control: Control) {
        self.task = Some(tokio::spawn(serve(Arc::clone(&self.listener), control)).abort_handle());
    }
}

impl ControlSocket {
    /// Closes the socket, and leaves its path in the file system.
    pub(super) fn forget_path(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.iter().for_each(tokio::task::AbortHandle::abort);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(path: &Path, group: u32) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::other(
                    "another daemon answers there: stop it, or give this one a `--config` with another control-socket, runtime-dir and state-dir",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::other("something that is not a socket is there: remove it, or set control-socket"));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    chown(path, None, Some(group))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// What every connection needs.
#[derive(Debug, Clone)]
pub(super) struct Control {
    pub(super) group: u32,
    /// Its name.
    pub(super) name: Arc<str>,
    /// The loops of the services, by name.
    pub(super) services: Arc<BTreeMap<String, mpsc::UnboundedSender<Event>>>,
    pub(super) board: StatusBoard,
    /// The clients that are served at present.
    pub(super) active_clients: ActiveClients,
}

async fn serve(listener: Arc<UnixListener>, control: Control) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = control.clone();
                let conversation = control.active_clients.begin();
                tokio::spawn(async move {
                    let _under_way = conversation;
                    if let Err(error) = converse(stream, control).await {
                        log::debug!("control socket: {error}");
                    }
                });
            }
            Err(error) => {
                log::error!("control socket: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, control: Control) -> io::Result<()> {
    if !may_ask(&stream, control.group)? {
        let message = format!(
            "only root and the group `{}` may use the control socket; join that group or use sudo",
            control.name
        );
        return write_frame(&mut stream, &Reply::Refused { message, exit: 77 }).await;
    }
    let read = tokio::time::timeout(READ_TIMEOUT, read_frame::<Request>(&mut stream, LONGEST_REQUEST));
    let request = match read.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => {
            let message = format!("the request cannot be read: {error}");
            return write_frame(&mut stream, &Reply::Refused { message, exit: 70 }).await;
        }
    };
    match request {
        Request::Status => write_frame(&mut stream, &Reply::Status(Box::new(status(&control).await))).await,
        Request::Reload { dry_run, service, comment } => match chosen(&control, service) {
            Err(message) => write_frame(&mut stream, &Reply::Refused { message, exit: 2 }).await,
            Ok(name) if dry_run => write_frame(&mut stream, &plan(&control, &name).await).await,
            Ok(name) => reload(stream, &control, &name, comment).await,
        },
        Request::Signal { service, signal } => {
            let reply = send_signal(&control, service, signal).await;
            write_frame(&mut stream, &reply).await
        }
        Request::Stop => stop(stream, &control).await,
        Request::Refused { reason } => write_frame(&mut stream, &note_refused(&control, &reason)).await,
    }
}

/// The service that a request is about.
fn chosen(control: &Control, named: Option<String>) -> Result<String, String> {
    let names: Vec<&str> = control.services.keys().map(String::as_str).collect();
    match (named, names.as_slice()) {
        (Some(name), _) if control.services.contains_key(&name) => Ok(name),
        (Some(name), _) => Err(format!("there is no service `{name}`; this daemon runs {}", names.join(", "))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) if control.services.contains_key(HAPROXY) => Ok(HAPROXY.into()),
        (None, _) => Err(format!("say which service: {}", names.join(", "))),
    }
}

fn may_ask(stream: &UnixStream, group: u32) -> io::Result<bool> {
    let peer = stream.peer_cred()?;
    let groups = || peer.pid().and_then(|pid| u32::try_from(pid).ok()).map(process::groups_of).unwrap_or_default();
    Ok(peer.uid() == 0 || peer.gid() == group || groups().contains(&group))
}

fn with<T: Default>(control: &Control, name: &str, read: impl FnOnce(&Published) -> T) -> T {
    let of = |all: &[(String, Published)]| {
        all.iter().find(|(known, _)| known == name).map(|(_, published)| read(published)).unwrap_or_default()
    };
    control.board.read(of)
}

/// Room for the receipt of some thousands of listeners, in bytes. The kernel charges what is used.
const ROOM_FOR_RECEIPTS: usize = 1 << 20;

const ENDING: &str = "the daemon is ending";

async fn reload(mut stream: UnixStream, control: &Control, name: &str, comment: Option<String>) -> io::Result<()> {
    let (waiter, mut replies) = pending_reply();
    let waiter = waiter.from(asked_by(&stream, comment).await?);
    let sent = control.services.get(name).is_some_and(|events| events.send(Event::Reload(waiter)).is_ok());
    if !sent {
        return part(stream, &Reply::Refused { message: ENDING.into(), exit: 69 }).await;
    }
    while let Some(reply) = replies.recv().await {
        match reply {
            Reply::Progress { .. } => write_frame(&mut stream, &reply).await?,
            _ => return part(stream, &reply).await,
        }
    }
    Ok(())
}

async fn send_signal(control: &Control, service: String, signal: i32) -> Reply {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return Reply::Refused { message: format!("{signal} is not the number of a signal"), exit: 2 };
    };
    let name = match chosen(control, Some(service)) {
        Ok(name) => name,
        Err(message) => return Reply::Refused { message, exit: 2 },
    };
    let (waiter, mut replies) = pending_reply();
    let sent = control.services[&name].send(Event::Signal(signal, waiter)).is_ok();
    let reply = if sent { replies.recv().await } else { None };
    reply.unwrap_or_else(|| Reply::Refused { message: ENDING.into(), exit: 69 })
}

/// The process on the other side, by what the kernel says of it. Its command line is its own word, and is in its memory, which may not answer.
async fn asked_by(stream: &UnixStream, comment: Option<String>) -> io::Result<AskedBy> {
    let peer = stream.peer_cred()?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let read = tokio::task::spawn_blocking(move || pid.and_then(process::short_command_line));
    let command = tokio::time::timeout(COMMAND_TIMEOUT, read).await.ok().and_then(Result::ok).flatten();
    Ok(AskedBy::process(peer.uid(), pid, command, comment))
}

/// Gives an answer that may be followed by the daemon's end. The end of PID 1 kills every process of the container, and a client that is killed
/// does not exit with the status that it was told. So this waits until the client has ended.
async fn part(mut stream: UnixStream, reply: &Reply) -> io::Result<()> {
    let client = process::is_init().then(|| client_of(&stream)).flatten();
    if matches!(reply, Reply::Receipt { .. }) {
        // Without it the loop writes a part at a time, each after other work. Where it is refused, it does so.
        let _ = set_socket_send_buffer_size_force(&stream, ROOM_FOR_RECEIPTS);
    }
    write_frame(&mut stream, reply).await?;
    // Closing the stream lets the client read the end of the answer.
    drop(stream);
    if let Some(client) = client {
        tokio::time::timeout(FAREWELL, client.ended()).await.ok();
    }
    Ok(())
}

/// The process that asks, unless it is in another namespace, or has ended.
fn client_of(stream: &UnixStream) -> Option<process::Handle> {
    let pid = stream.peer_cred().ok()?.pid().and_then(|pid| u32::try_from(pid).ok())?;
    process::Handle::adopt(pid, process::start_time(pid)?)
}

/// Tells the service that was to be reloaded why it was not.
fn note_refused(control: &Control, reason: &str) -> Reply {
    let refused = |message: String, exit: u8| Reply::Refused { message, exit };
    let name = match chosen(control, None) {
        Ok(name) => name,
        Err(message) => return refused(message, 2),
    };
    match control.services[&name].send(Event::Refused(reason.to_owned())) {
        Ok(()) => Reply::Noted,
        Err(_) => refused(ENDING.into(), 69),
    }
}

/// All services stop.
async fn stop(stream: UnixStream, control: &Control) -> io::Result<()> {
    let mut waiting = Vec::new();
    for events in control.services.values() {
        let (waiter, replies) = pending_reply();
        if events.send(Event::Stop(waiter)).is_ok() {
            waiting.push(replies);
        }
    }
    let (mut all, mut masters) = (Vec::new(), Vec::new());
    let (mut stopped, mut one_stays) = (false, false);
    for replies in &mut waiting {
        while let Some(reply) = replies.recv().await {
            if let Reply::Stopped { drains, with_programs, stays } = reply {
                stopped = true;
                one_stays |= stays;
                all.extend(drains);
                masters.extend(with_programs);
                break;
            }
        }
    }
    let reply = match stopped {
        true => Reply::Stopped { drains: all, with_programs: masters, stays: one_stays },
        false => Reply::Refused { message: ENDING.into(), exit: 69 },
    };
    part(stream, &reply).await
}

/// What a reload would do: the check of the configuration is run, and nothing is started.
async fn plan(control: &Control, name: &str) -> Reply {
    let (plan, serving, notes, check) = with(control, name, |published| {
        let status = &published.status;
        (status.plan.clone(), status.serving.is_some(), status.notes.clone(), published.check.clone())
    });
    let refused = match &check {
        Some(check) => check.run().await.err().unwrap_or_default(),
        None => Vec::new(),
    };
    Reply::Plan { plan, serving, refused, checked_by: check.map(|check| check.who), notes }
}

/// What the services have published, with figures of this moment: draining connections, holds, and the connection rate.
async fn status(control: &Control) -> Status {
    let names: Vec<String> = control.board.read(|all| all.iter().map(|(name, _)| name.clone()).collect());
    let mut status = Status::default();
    let records = names.first().and_then(|name| with(control, name, |published| published.holds.clone()));
    status.holds = tokio::task::spawn_blocking(move || holds(records)).await.unwrap_or_default();
    let is_main = |name: &str| name == HAPROXY || names.len() == 1;
    for name in &names {
        let found = service_status(control, name).await;
        if is_main(name) {
            status.main = found;
        } else {
            status.services.insert(name.clone(), found);
        }
    }
    status
}

async fn service_status(control: &Control, name: &str) -> ServiceStatus {
    let (mut status, draining, socket, surroundings) = with(control, name, |published| {
        let Published { draining, socket, surroundings, .. } = published;
        (published.whole_status(), draining.clone(), socket.clone(), surroundings.clone())
    });
    let living = draining.into_iter().filter(|generation| !generation.has_ended());
    let living: Vec<_> = living.collect();
    let look = move || {
        let draining = living.iter().map(|generation| generation.status()).collect();
        (draining, surroundings.foreign_listener())
    };
    let foreign;
    (status.draining, foreign) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    // The loop has seen it, or sees it a moment later.
    status.warnings.extend(foreign.filter(|sentence| !status.warnings.contains(sentence)));
    if let Some(socket) = socket {
        status.connection_rate =
            runtime_api::info(&socket, READ_TIMEOUT).await.ok().and_then(|info| info.connection_rate);
    }
    status
}

fn holds(records: Option<HoldRegistry>) -> Vec<HoldStatus> {
    let found = records
        .and_then(|records| records.list().inspect_err(|error| log::warn!("the holds cannot be listed: {error}")).ok());
    let living = found.unwrap_or_default().into_iter().filter(|found| found.lives);
    let records = living.filter_map(|found| found.record);
    // The others are being prepared, and hold nothing yet.
    records.filter(|record| record.guard.is_some()).map(HoldStatus::from).collect()
}
