//! Asks the daemon over its control socket.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use super::{CliError, Context, Exit};
use crate::daemon::protocol::{LONGEST_FRAME, Reply, Request, read_frame, write_frame};
use crate::takeover::systemd_is_booted;

/// Where `packaging/sysv` installs its script.
const INIT_SCRIPT: &str = "/etc/init.d/reloader";
/// How long the daemon may take for a reply that needs no reload.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command waits for the daemon's reply.
#[derive(Debug, Clone, Copy)]
pub(super) enum Timeout {
    /// For ever.
    Never,
    /// No longer than this.
    After(Duration),
    /// No longer than this until the daemon has begun to reload. From then on the daemon's own limits apply.
    UntilBegun(Duration),
}

/// Asks the daemon, and returns its last reply. `progress` is called with the name of each phase of a reload.
pub(super) fn ask(
    context: &Context,
    request: &Request,
    timeout: Timeout,
    progress: impl Fn(&str),
) -> Result<Reply, CliError> {
    Context::runtime()?.block_on(ask_in_runtime(context, request, timeout, progress))
}

/// The same as [`ask`], for a caller that is inside a runtime.
pub(super) async fn ask_in_runtime(
    context: &Context,
    request: &Request,
    timeout: Timeout,
    progress: impl Fn(&str),
) -> Result<Reply, CliError> {
    let socket = ControlSocket::from_context(context)?;
    let has_begun = Cell::new(false);
    let reply = socket.ask(request, |phase, begun| {
        has_begun.set(begun);
        progress(phase);
    });
    let limit = match timeout {
        Timeout::Never => return reply.await,
        Timeout::After(limit) | Timeout::UntilBegun(limit) => limit,
    };
    tokio::pin!(reply);
    tokio::select! {
        reply = &mut reply => reply,
        () = tokio::time::sleep(limit) => match timeout {
            Timeout::UntilBegun(_) if has_begun.get() => reply.await,
            _ => Err(timed_out(request, limit, has_begun.get())),
        },
    }
}

/// The error for a reply that does not belong to the request.
pub(super) fn unexpected(reply: &Reply) -> CliError {
    CliError::new(Exit::Internal, format!("the daemon sent an unexpected reply: {reply:?}"))
}

struct ControlSocket {
    path: PathBuf,
    /// The group that may use the control socket.
    group: String,
}

impl ControlSocket {
    fn from_context(context: &Context) -> Result<ControlSocket, CliError> {
        match (&context.socket, context.config()) {
            (Some(path), config) => {
                let group = config.map_or("root".into(), |config| config.control_group);
                Ok(ControlSocket { path: path.clone(), group })
            }
            (None, Ok(config)) => Ok(ControlSocket { path: config.control_socket, group: config.control_group }),
            (None, Err(error)) => {
                let message = format!("{}\n(--socket PATH asks a running daemon without this file)", error.message);
                Err(CliError::new(error.exit, message))
            }
        }
    }

    async fn ask(&self, request: &Request, progress: impl Fn(&str, bool)) -> Result<Reply, CliError> {
        let mut stream = UnixStream::connect(&self.path).await.map_err(|error| self.unreachable(&error))?;
        // A daemon that refuses this peer replies without reading the request. The reply can be read even if the write failed.
        let sent = write_frame(&mut stream, request).await;
        loop {
            match read_frame::<Reply>(&mut stream, LONGEST_FRAME).await {
                Ok(Some(Reply::Progress { phase, begun })) => progress(&phase, begun),
                Ok(Some(Reply::Refused { message, exit })) => {
                    return Err(CliError::new(Exit::from_number(exit), message));
                }
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) | Err(_) if let Err(error) = &sent => return Err(self.unreachable(error)),
                Ok(None) => {
                    return Err(CliError::new(
                        Exit::NoDaemon,
                        "the daemon ended before it answered. The serving generation serves on, unless it was being replaced at \
                         that moment: start the daemon now, and see `reloader history`",
                    ));
                }
                Err(error) => {
                    return Err(CliError::new(Exit::NoDaemon, format!("the daemon's answer broke off: {error}")));
                }
            }
        }
    }

    fn unreachable(&self, error: &io::Error) -> CliError {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => CliError::new(
                Exit::Privilege,
                format!(
                    "only root and the group `{}` may use the control socket {path}; join that group or use sudo",
                    self.group
                ),
            ),
            _ => CliError::new(
                Exit::NoDaemon,
                format!(
                    "no daemon answers on {path} ({error}); start it with `reloader daemon`{}",
                    or_service_manager()
                ),
            ),
        }
    }
}

/// The other way to start the daemon on this machine, for the end of a sentence.
fn or_service_manager() -> &'static str {
    match systemd_is_booted() {
        true => " or `systemctl start reloader`",
        false if Path::new(INIT_SCRIPT).exists() => " or `/etc/init.d/reloader start`",
        false => "",
    }
}

fn timed_out(request: &Request, limit: Duration, has_begun: bool) -> CliError {
    let limit = humantime::format_duration(limit);
    let message = match request {
        Request::Reload { dry_run: false, .. } if has_begun => {
            format!("no outcome within {limit}; the daemon goes on with the reload, see `reloader status`")
        }
        Request::Reload { dry_run: false, .. } => {
            format!("the reload was not begun within {limit}; the daemon begins it once it can, see `reloader status`")
        }
        _ => format!("the daemon did not answer within {limit}: it is busy, or stopped (see its log)"),
    };
    CliError::new(Exit::TryAgain, message)
}
