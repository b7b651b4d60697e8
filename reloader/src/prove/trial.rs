//! A connection before anything else: a service that does not answer is not reloaded, and what is asked of it must be
//! something that it does.

use std::time::Duration;

use super::{Class, Place, Protocol};
use crate::load::{Failure, LoadError, Outcome, Target, TlsFailure};

/// Why nothing can be proven.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No address serves.
    #[error("{target} is not served: {reason}. Nothing was reloaded")]
    Unserved {
        /// As it was given.
        target: String,
        /// For each address, why not.
        reason: String,
    },
    /// Kept connections are not kept.
    #[error(
        "{0} closes each connection after one reply, so that none can be kept: leave out --keep-alive. Nothing was reloaded"
    )]
    NotKept(String),
    /// This machine could not even make one connection.
    #[error(
        "{target}: this machine cannot connect: {reason}. Nothing was reloaded; try again later, or from another machine"
    )]
    Own {
        /// As it was given.
        target: String,
        /// For each address, why not.
        reason: String,
    },
    /// No load.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The first address of the place that serves, as a client would find it.
///
/// # Errors
/// What is wrong, and where it can be known what to do.
pub fn trial(place: &Place, protocol: &Protocol, timeout: Duration) -> Result<Target, TrialError> {
    let (mut reasons, mut is_own) = (Vec::new(), false);
    // Whether a connection is kept shows with the second request.
    let count = if protocol.keep_alive.is_some() { 2 } else { 1 };
    for address in &place.addresses {
        let mut load = protocol.load(place, address)?.timeout(timeout).connections(count);
        if protocol.keep_alive.is_some() {
            load = load.keep_alive(1);
        }
        let ended = load.start(Vec::<Outcome>::new())?.wait()?;
        match ended.sink.iter().find_map(|outcome| outcome.result.err()) {
            Some(failure) => {
                is_own |= Class::of(failure).is_none();
                reasons.push(format!("{address}: {}", sentence(failure, protocol)));
            }
            None if protocol.keep_alive.is_some() && ended.connections > 1 => {
                return Err(TrialError::NotKept(place.text.clone()));
            }
            None => return Ok(address.clone()),
        }
    }
    let (target, reason) = (place.text.clone(), reasons.join("; "));
    Err(if is_own { TrialError::Own { target, reason } } else { TrialError::Unserved { target, reason } })
}

fn sentence(failure: Failure, protocol: &Protocol) -> String {
    let path = protocol.http.as_deref().unwrap_or("/");
    match failure {
        Failure::Refused => "refused, nobody listens there".into(),
        Failure::Status(status) => {
            format!("it answers {path} with {status}; name a path that it serves: --http=/PATH")
        }
        Failure::NotHttp => "it does not answer in HTTP; leave out --http, or say --tls if it wants that first".into(),
        Failure::Tls(TlsFailure::NotTls) => "it does not speak TLS there; leave out --tls".into(),
        Failure::Empty | Failure::CutShort | Failure::ResetAfterConnect if protocol.tls => {
            format!("{failure}: does it speak TLS there? If not, leave out --tls")
        }
        Failure::Empty => "closed without a reply; if it speaks TLS there, say --tls".into(),
        Failure::Timeout if protocol.http.is_none() => "connected, but not closed by it after we had closed our side \
             (or never connected) until the time was up; try --http or --tls, whichever it speaks"
            .into(),
        Failure::Timeout if protocol.keep_alive.is_none() => {
            "no whole reply, or the connection not closed behind it, until the time was up".into()
        }
        Failure::Timeout => "no whole reply until the time was up".into(),
        other => other.to_string(),
    }
}
