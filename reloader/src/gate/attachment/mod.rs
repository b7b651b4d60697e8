//! Attaches a tc program to one device, and removes everything of it afterwards.

mod attach;
mod clsact;
mod left_behind;
mod ownership;
mod site;

pub use attach::Hook;
pub(crate) use attach::{Attachment, Way};
pub(crate) use left_behind::remove_left_behind;
pub(crate) use ownership::COUNTER;
pub(crate) use site::AttachError;
