//! Makes one connection before the load, so that a service that does not answer is not reloaded. The connection also
//! shows whether the service speaks the protocol.

use std::time::Duration;

use super::findings::ProofSettings;
use super::loss::LossClass;
use super::protocol::{Protocol, SessionSettings};
use super::sessions::reason;
use super::target_spec::TargetSpec;
use crate::load::{EndedSession, Failure, LoadError, Outcome, RunningSessions, Target, TlsFailure};

/// Why the run does not begin.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No address of the target serves.
    #[error("{target} is not served: {reason}. Nothing was reloaded")]
    Unserved {
        /// The argument of `--target`.
        target: String,
        /// The reason for each address.
        reason: String,
    },
    /// The service does not keep connections.
    #[error(
        "{0} closes each connection after one reply, so that none can be kept: leave out --keep-alive. Nothing was reloaded"
    )]
    NotKept(String),
    /// The service answers a request before its body has ended.
    #[error(
        "{0} answers a request before its body has ended, so that none can be held in progress: name a path by --hold-post=/PATH \
         whose service reads the whole body, or leave out --hold. Nothing was reloaded"
    )]
    NotHeld(String),
    /// Long sessions cannot be opened.
    #[error("{target}: {failed} of {count} long sessions cannot be held: {reason}. Nothing was reloaded")]
    Session {
        /// The argument of `--target`.
        target: String,
        /// The number of sessions that failed.
        failed: usize,
        /// The number of sessions.
        count: usize,
        /// Why the first of them failed.
        reason: String,
    },
    /// The client's machine could not make a connection.
    #[error(
        "{target}: this machine cannot connect: {reason}. Nothing was reloaded; try again later, or from another machine"
    )]
    Local {
        /// The argument of `--target`.
        target: String,
        /// The reason for each address.
        reason: String,
    },
    /// The load could not be started.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Connects to each address of the target in turn, as a client does, and returns the first one that serves. It blocks for at
/// most `timeout` for each request.
///
/// # Errors
/// Says what is wrong with each address, and what to do about it where that is known.
pub fn find_serving_address(target: &TargetSpec, protocol: &Protocol, timeout: Duration) -> Result<Target, TrialError> {
    let (mut reasons, mut is_local) = (Vec::new(), false);
    // The second request shows whether the connection was kept.
    let requests = if protocol.keep_alive.is_some() { 2 } else { 1 };
    for address in &target.addresses {
        let mut load = protocol.load(target, address)?.timeout(timeout).connections(requests);
        if protocol.keep_alive.is_some() {
            load = load.keep_alive(1);
        }
        let finished = load.start(Vec::<Outcome>::new())?.wait()?;
        match finished.sink.iter().find_map(|outcome| outcome.result.err()) {
            Some(failure) => {
                is_local |= LossClass::from_failure(failure).is_none();
                reasons.push(format!("{address}: {}", explain(failure, protocol)));
            }
            None if protocol.keep_alive.is_some() && finished.connections > 1 => {
                return Err(TrialError::NotKept(target.text.clone()));
            }
            None => return Ok(address.clone()),
        }
    }
    let (target, reason) = (target.text.clone(), reasons.join("; "));
    Err(if is_local { TrialError::Local { target, reason } } else { TrialError::Unserved { target, reason } })
}

/// How long a service has to answer a held request too early.
const EARLY_REPLY: Duration = Duration::from_millis(500);

/// Opens the long sessions that are asked for, if any, once one of them has been opened and ended in good order. It blocks for at most three
/// times `timeout`.
///
/// # Errors
/// Says why sessions cannot be held.
pub fn open_sessions(
    target: &TargetSpec,
    settings: &ProofSettings,
    address: &Target,
    timeout: Duration,
) -> Result<Option<RunningSessions>, TrialError> {
    let Some(asked) = &settings.sessions else { return Ok(None) };
    let open = |count: usize| {
        let some = SessionSettings { count, ..asked.clone() };
        settings.protocol.sessions(&some, target, address, timeout)?.start()
    };
    let first = open(1)?;
    if settings.holds_requests() {
        first.have_ended_within(EARLY_REPLY);
    }
    check_sessions(target, &first.wait()?, 1)?;
    let all = open(asked.count)?;
    check_sessions(target, all.failed_to_open(), asked.count)?;
    Ok(Some(all))
}

fn check_sessions(target: &TargetSpec, ended: &[EndedSession], count: usize) -> Result<(), TrialError> {
    let failures: Vec<Failure> = ended.iter().filter_map(|session| session.result.err()).collect();
    let target = target.text.clone();
    match failures.first() {
        None => Ok(()),
        Some(Failure::AnsweredEarly) => Err(TrialError::NotHeld(target)),
        Some(failure) if LossClass::from_failure(*failure).is_none() => {
            Err(TrialError::Local { target, reason: failure.to_string() })
        }
        Some(failure) => Err(TrialError::Session { target, failed: failures.len(), count, reason: reason(*failure) }),
    }
}

/// What the failure means here, and what to do about it.
fn explain(failure: Failure, protocol: &Protocol) -> String {
    let path = protocol.http.as_deref().unwrap_or("/");
    match failure {
        Failure::Refused => "refused: the port has no listener".into(),
        Failure::BacklogFull => {
            "the accept queue of the unix socket is full: the server does not accept, or its backlog is too small"
                .into()
        }
        Failure::Status(status) => {
            format!("it answers {path} with {status}; name a path that it serves: --http=/PATH")
        }
        Failure::NotHttp => "it does not answer in HTTP; leave out --http, or add --tls if it expects TLS".into(),
        Failure::Tls(TlsFailure::NotTls) => "it does not speak TLS there; leave out --tls".into(),
        Failure::Empty | Failure::CutShort | Failure::ResetAfterConnect if protocol.tls => {
            format!("{failure}; if it does not speak TLS there, leave out --tls")
        }
        Failure::Empty => "closed without a reply; if it speaks TLS there, add --tls".into(),
        Failure::Timeout if protocol.http.is_none() => {
            "it did not accept the connection, or did not close it after the \
             client had closed its side, within the timeout; try --http or --tls, whichever it speaks"
                .into()
        }
        Failure::Timeout if protocol.keep_alive.is_none() => {
            "it did not send a whole reply, or did not close the connection after it, within the timeout".into()
        }
        Failure::Timeout => "it did not send a whole reply within the timeout".into(),
        other => other.to_string(),
    }
}
