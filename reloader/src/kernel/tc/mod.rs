//! Traffic control: the qdiscs and filters in a device's packet path.

mod clsact;
mod filters;
#[cfg(test)]
pub(super) mod golden;
mod message;
pub(crate) mod qdisc;
pub(crate) mod u32_filter;

pub(crate) use clsact::{add_clsact, add_ingress, remove_ingress, remove_unused, remove_unused_clsact};
pub use filters::{Direction, Filter};
pub(crate) use filters::{ListedFilter, filters, list_filters, remove_filter};
