//! An open-loop load generator.
//!
//! Each connection has a time at which it is due. It starts at that time whether or not earlier connections have finished,
//! and its latency counts from that time. A closed loop would wait for the very stall that it is meant to measure, and would
//! report one slow request instead of thousands.
//!
//! The generator runs on its own thread, in the network namespace of the thread that starts it. It keeps nothing about a
//! connection that has ended: the [`Sink`] decides what to keep of each [`Outcome`].

mod builder;
mod client_certificate;
mod connection;
mod engine;
mod error;
mod exchange;
mod http;
mod outcome;
mod poller;
mod running;
mod sessions;
mod stream;
mod summary;
mod target;
mod tls;

pub use builder::Load;
pub use client_certificate::ClientCertificate;
pub use error::LoadError;
pub use exchange::{Exchange, SessionContent};
pub use outcome::{Failure, Outcome, SLOW_THRESHOLD, Sink, TlsFailure};
pub use running::{FinishedLoad, RunningLoad};
pub use sessions::{EndedSession, LongSessions, RunningSessions, SessionResult};
pub use summary::{MAX_START_DELAY, Summary};
pub(crate) use summary::{kept_schedule, latency_histogram};
pub use target::Target;
pub use tls::Tls;

#[cfg(test)]
mod tests;
