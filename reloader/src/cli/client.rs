//! The client's side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use super::{Context, Exit, Failure};
use crate::daemon::protocol::{LONGEST_FRAME, Reply, Request, read_frame, write_frame};
use crate::takeover::systemd_is_booted;

/// Where `packaging/sysv` is installed.
const INIT_SCRIPT: &str = "/etc/init.d/reloader";
/// How long an answer may take that needs no reload.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the daemon and returns its last reply; progress goes to `progress`.
pub(super) fn ask(
    context: &Context,
    request: &Request,
    timeout: Option<Duration>,
    progress: impl Fn(&str),
) -> Result<Reply, Failure> {
    Context::runtime()?.block_on(converse(context, request, timeout, progress))
}

/// The same, within a runtime that is there already.
pub(super) async fn converse(
    context: &Context,
    request: &Request,
    timeout: Option<Duration>,
    progress: impl Fn(&str),
) -> Result<Reply, Failure> {
    let (path, group) = control_socket(context)?;
    let conversation = async {
        let mut stream = UnixStream::connect(&path).await.map_err(|error| unreachable(&path, &group, &error))?;
        // A daemon that refuses this peer answers without waiting for the request: the answer is there all the same.
        let sent = write_frame(&mut stream, request).await;
        loop {
            match read_frame::<Reply>(&mut stream, LONGEST_FRAME).await {
                Ok(Some(Reply::Progress { phase })) => progress(&phase),
                Ok(Some(Reply::Refused { message, exit })) => {
                    return Err(Failure::new(Exit::from_number(exit), message));
                }
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) | Err(_) if let Err(error) = &sent => return Err(unreachable(&path, &group, error)),
                Ok(None) => {
                    return Err(Failure::new(
                        Exit::NoDaemon,
                        "the daemon ended before it answered. What served serves on, unless it was just being replaced: start the daemon now, and see `reloader history`",
                    ));
                }
                Err(error) => {
                    return Err(Failure::new(Exit::NoDaemon, format!("the daemon's answer broke off: {error}")));
                }
            }
        }
    };
    match timeout {
        Some(limit) => {
            tokio::time::timeout(limit, conversation).await.unwrap_or_else(|_| Err(too_late(request, limit)))
        }
        None => conversation.await,
    }
}

fn control_socket(context: &Context) -> Result<(PathBuf, String), Failure> {
    let config = context.config();
    match (&context.socket, config) {
        (Some(socket), config) => Ok((socket.clone(), config.map_or("root".into(), |config| config.control_group))),
        (None, Ok(config)) => Ok((config.control_socket, config.control_group)),
        (None, Err(failure)) => {
            let message =
                format!("{}\n(a running daemon can be asked all the same with --socket PATH)", failure.message);
            Err(Failure::new(failure.exit, message))
        }
    }
}

fn unreachable(path: &Path, group: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Privilege,
            format!(
                "the control socket {} is open to root and the group `{group}` only; join that group or use sudo",
                path.display()
            ),
        ),
        _ => {
            let service = match systemd_is_booted() {
                true => " or `systemctl start reloader`",
                false if Path::new(INIT_SCRIPT).exists() => " or `/etc/init.d/reloader start`",
                false => "",
            };
            Failure::new(
                Exit::NoDaemon,
                format!("no daemon answers on {} ({error}); start it with `reloader daemon`{service}", path.display()),
            )
        }
    }
}

fn too_late(request: &Request, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    let message = match request {
        Request::Reload { dry_run: false, .. } => {
            format!("no outcome within {limit}; the reload goes on once the daemon takes it up, see `reloader status`")
        }
        _ => format!("the daemon did not answer within {limit}: it is busy, or stopped (see its log)"),
    };
    Failure::new(Exit::TryAgain, message)
}
