//! Reads and checks the daemon's own configuration, `/etc/reloader/reloader.toml`.

mod address;
mod check;
mod file;
mod load;
mod order;
mod service;
mod settings;
mod size;
mod span;
mod stop_and_ready;
#[cfg(test)]
mod tests;
mod values;

pub use load::ConfigError;
pub use service::{Fallback, HAPROXY, Ready, Service, Sockets, Stop};
pub use settings::{Config, Haproxy, Hold, Reload, UnitCommand};
pub(crate) use span::parse as parse_duration;
pub use span::{Limit, SpreadTime};
pub use values::{AtMaxDraining, LastKnownGood, Mode, OnStop, Overlap, Require, Strategy};
