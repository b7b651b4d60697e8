//! Proves, or disproves, that a service loses no connection while it is reloaded.
//!
//! An open-loop load of new connections goes on while the service is reloaded again and again, by whatever reloads it. What
//! came of each connection is counted where it happens; `Findings` is all that is left, plain data that a verdict, a JSON
//! object, a text and an HTML report are made of.

mod findings;
mod json;
mod place;
mod protocol;
mod reload;
mod report;
mod run;
mod tally;
mod text;
mod timeline;
mod trial;
mod verdict;

pub use findings::{Attempt, Findings, Reloaded, Settings, Way};
pub use json::{Json, json, json_without_figures};
pub use place::{Place, PlaceError};
pub use protocol::{Protocol, ProtocolError};
pub use reload::{Reload, Shell};
pub use report::html;
pub use run::{Interrupt, ProveError, Stage, run};
pub use tally::{Class, Loss, Tally};
pub use text::text;
pub use timeline::{Point, Timeline};
pub use trial::{TrialError, trial};
pub use verdict::{Verdict, losses_of, verdict};
