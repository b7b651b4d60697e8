//! Asks the daemon over its control socket.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use super::{CliError, Context, Exit};
use crate::daemon::protocol::{Reply, Request, read_reply, write_frame};
use crate::takeover::{daemon_unit, systemd_is_booted};

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
    /// The configuration that `--config` names.
    config: Option<PathBuf>,
}

impl ControlSocket {
    fn from_context(context: &Context) -> Result<ControlSocket, CliError> {
        match (&context.socket, context.config()) {
            (Some(path), config) => {
                let group = config.map_or("root".into(), |config| config.control_group);
                Ok(ControlSocket { path: path.clone(), group, config: context.config_path.clone() })
            }
            (None, Ok(config)) => {
                let config_path = context.config_path.clone();
                Ok(ControlSocket { path: config.control_socket, group: config.control_group, config: config_path })
            }
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
            match read_reply(&mut stream).await {
                Ok(Some(Reply::Progress { phase, begun })) => progress(&phase, begun),
                Ok(Some(Reply::Refused { message, exit })) => {
                    return Err(CliError::new(Exit::from_number(exit), message));
                }
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) | Err(_) if let Err(error) = &sent => return Err(self.unreachable(error)),
                Ok(None) => {
                    return Err(CliError::new(
                        Exit::NoDaemon,
                        "the daemon ended before it answered: `reloader status` names what runs on without it, and `reloader history` says what \
                         was done; start the daemon again",
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
                    "no daemon answers on {path} ({error}); start it with `{}`{}",
                    daemon_command(self.config.as_deref()),
                    or_service_manager(self.config.as_deref())
                ),
            ),
        }
    }
}

fn daemon_command(config: Option<&Path>) -> String {
    match config {
        Some(path) => format!("reloader --config {} daemon", path.display()),
        None => "reloader daemon".into(),
    }
}

/// The other way to start the daemon on this machine, for the end of a sentence.
fn or_service_manager(config: Option<&Path>) -> String {
    match systemd_is_booted() {
        true => daemon_unit(config).map_or_else(String::new, |unit| format!(" or `systemctl start {unit}`")),
        false if Path::new(INIT_SCRIPT).exists() && config.is_none() => format!(" or `{INIT_SCRIPT} start`"),
        false => String::new(),
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
        Request::Reload { dry_run: true, .. } => {
            format!("the server's check of its configuration was not done within {limit}; give it longer by --timeout")
        }
        _ => format!("the daemon did not answer within {limit}: it is busy, or stopped (see its log)"),
    };
    CliError::new(Exit::TryAgain, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_check_of_a_dry_run_is_not_called_a_busy_daemon() {
        let request = |dry_run| Request::Reload { dry_run, service: None, comment: None };
        let message = |dry_run, begun| timed_out(&request(dry_run), Duration::from_secs(30), begun).message;
        assert!(message(true, false).starts_with("the server's check of its configuration was not done within 30s"));
        assert!(
            message(false, false).contains("was not begun") && message(false, true).contains("goes on with the reload")
        );
    }
}
