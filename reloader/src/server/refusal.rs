//! Says why a generation cannot be prepared, as the failure of a reload.

use std::io;

use crate::haproxy::version::VersionError;
use crate::receipt::{Failure, ReasonCode};

/// HAProxy does not say which version it is.
pub(crate) fn unknown_version(error: VersionError) -> Failure {
    let code = match error {
        VersionError::TimedOut { .. } => ReasonCode::StartTimedOut,
        VersionError::Run { .. } => ReasonCode::StartFailed,
        VersionError::NotHaproxy(_) => ReasonCode::ConfigurationRefused,
    };
    Failure::new(code, error.to_string())
}

/// HAProxy's configuration was not read.
pub(super) fn unread_configuration(error: io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::TimedOut => ReasonCode::StartTimedOut,
        _ => ReasonCode::ConfigurationRefused,
    };
    Failure::new(code, error.to_string())
}
