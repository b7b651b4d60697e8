//! Waits until HAProxy is ready: its private stats socket appears, and answers.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::runtime_api;
use crate::process::pause_briefly;
use crate::process::readiness::NotReady;
use crate::sys;

/// Watches a directory for a socket. Create it before the process starts, so that no event is missed.
#[derive(Debug)]
pub struct Appearance {
    path: PathBuf,
    /// Until it is dropped.
    events: Option<AsyncFd<OwnedFd>>,
    answers: FirstAnswers,
}

/// The addresses of the CLI sockets of the HAProxy that started last, as it named them when it answered first. It does not change them while it
/// lives.
#[derive(Debug, Clone, Default)]
pub struct FirstAnswers(Arc<Mutex<Option<FirstAnswer>>>);

#[derive(Debug)]
struct FirstAnswer {
    /// The stats socket by which it came.
    socket: PathBuf,
    /// `None` from a HAProxy that does not know the command.
    cli_sockets: Option<Vec<String>>,
}

impl FirstAnswers {
    /// Takes the answer of the HAProxy with this stats socket, as by [`cli_sockets`](runtime_api::cli_sockets).
    pub fn take(&self, socket: &Path) -> Option<Option<Vec<String>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take_if(|answer| answer.socket == socket).map(|answer| answer.cli_sockets)
    }

    fn keep(&self, socket: &Path, cli_sockets: Option<Vec<String>>) {
        let answer = FirstAnswer { socket: socket.to_owned(), cli_sockets };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl Appearance {
    /// Watches for the socket at `path`. The directory of `path` must exist. What HAProxy says of its CLI sockets goes to `answers`.
    ///
    /// # Errors
    /// Where the directory cannot be watched.
    pub fn watch(path: &Path, answers: FirstAnswers) -> Result<Appearance, NotReady> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let prepare = || {
            let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, directory, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE)?;
            sys::watch(events)
        };
        Ok(Appearance { path: path.to_owned(), events: Some(prepare().map_err(NotReady::Watch)?), answers })
    }

    async fn appeared(&self) -> std::io::Result<()> {
        let Some(events) = &self.events else { return Ok(()) };
        while !self.path.exists() {
            let mut ready = events.readable().await?;
            let mut buffer = [0; 4096];
            // Any change of the directory counts.
            while rustix::io::read(events.get_ref(), &mut buffer).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
        }
        Ok(())
    }

    /// Waits for the socket, then for an answer to `show info`. HAProxy answers when it has bound all its listeners and runs.
    ///
    /// HAProxy renames the socket to its path just before listen(2) (`sock_unix_bind_receiver`, then `uxst_bind_listener`), and inotify reports
    /// no listen(2).
    ///
    /// # Errors
    /// The directory cannot be watched any more. If the socket does not answer as HAProxy does, the request is repeated without end.
    pub async fn answered(&self) -> Result<(), NotReady> {
        self.appeared().await.map_err(NotReady::Watch)?;
        loop {
            match runtime_api::info_and_cli_sockets(&self.path, Duration::from_secs(3600)).await {
                Ok((info, cli_sockets)) => {
                    self.answers.keep(&self.path, cli_sockets);
                    log::debug!("HAProxy {} answers as process {}", info.version, info.pid);
                    return Ok(());
                }
                Err(_) => pause_briefly().await,
            }
        }
    }
}

/// The kernel closes an inotify descriptor only after a grace period (`fsnotify_wait_marks_destroyed`): five milliseconds, in which the loop
/// would stand still.
impl Drop for Appearance {
    fn drop(&mut self) {
        if let Some(events) = self.events.take().map(AsyncFd::into_inner) {
            tokio::task::spawn_blocking(move || drop(events));
        }
    }
}
