//! Proves, or disproves, that a service loses no connection while it is reloaded.
//!
//! An open-loop load of new connections goes on while the service is reloaded again and again, by the daemon or by a command.
//! The [`Tally`] counts the outcome of each connection as it ends. [`Findings`] hold all results of a run as plain data. The
//! verdict, the JSON object, the text and the HTML report are made from them.

mod attribution;
mod findings;
mod json;
mod loss;
mod protocol;
mod reload_method;
mod report;
mod run;
#[cfg(test)]
mod samples;
mod sentences;
mod sessions;
mod shell;
mod tally;
mod target_spec;
mod text;
mod timeline;
mod trial;
mod verdict;
mod windows;

pub use findings::{Findings, ProofSettings, TimedReload};
pub use json::{Json, json, json_without_figures};
pub use protocol::{Protocol, ProtocolError, SessionSettings};
pub use reload_method::{ReceiptsCut, ReloadMethod, ReloadReport, ReloadResult};
pub use report::html;
pub use run::{Proof, ProofProgress, ProveError, SignalNumber, run};
pub use sessions::SessionFindings;
pub use shell::ShellCommand;
pub use tally::Tally;
pub use target_spec::{TargetSpec, TargetSpecError};
pub use text::text;
pub use trial::{TrialError, find_serving_address, open_sessions};
pub use verdict::{Verdict, verdict};
