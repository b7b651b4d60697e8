//! Kinds of loss.

use std::time::Duration;

use crate::load::Failure;

/// The kind of a loss, as reports count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LossClass {
    /// The port had no listener, or the accept queue of the unix socket was full.
    Refused,
    /// Reset, before or after the connection was established.
    Reset,
    /// Closed without a byte. On a kept connection: closed after the request was sent.
    Empty,
    /// Closed in the middle of a reply.
    CutShort,
    /// Not finished within the timeout.
    TimedOut,
    /// A reply whose status is neither 2xx nor 3xx, or a reply that is not HTTP.
    BadStatus,
    /// TLS failed.
    Tls,
    /// Any other failure.
    Other,
}

impl LossClass {
    /// All classes, in the order in which reports list them.
    pub(super) const ALL: [LossClass; 8] = [
        LossClass::Refused,
        LossClass::Reset,
        LossClass::Empty,
        LossClass::CutShort,
        LossClass::TimedOut,
        LossClass::BadStatus,
        LossClass::Tls,
        LossClass::Other,
    ];

    /// The class of a failure; `None` where the client's machine is the cause, which is not a loss of the service.
    pub(super) fn from_failure(failure: Failure) -> Option<LossClass> {
        Some(match failure {
            Failure::Refused | Failure::BacklogFull => LossClass::Refused,
            Failure::ResetBeforeConnect | Failure::ResetAfterConnect => LossClass::Reset,
            Failure::Empty => LossClass::Empty,
            Failure::CutShort => LossClass::CutShort,
            Failure::Timeout => LossClass::TimedOut,
            Failure::Status(_) | Failure::NotHttp => LossClass::BadStatus,
            Failure::Tls(_) => LossClass::Tls,
            Failure::AnsweredEarly | Failure::Other(_) => LossClass::Other,
            Failure::Local(_) | Failure::NoFreeConnection => return None,
        })
    }

    /// The words for it in reports.
    pub(super) fn words(self) -> &'static str {
        match self {
            LossClass::Refused => "refused",
            LossClass::Reset => "reset",
            LossClass::Empty => "closed without a reply",
            LossClass::CutShort => "cut short",
            LossClass::TimedOut => "timed out",
            LossClass::BadStatus => "answered badly",
            LossClass::Tls => "failed in TLS",
            LossClass::Other => "failed otherwise",
        }
    }
}

/// One lost connection, or request on a kept connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    /// When it was due, from the start of the load.
    pub(super) due: Duration,
    /// When it ended, from the start of the load.
    pub(super) end: Duration,
    /// The kind of loss.
    pub(super) class: LossClass,
}
