//! The filters of a gate on one device.

use super::coverage::Coverage;
use super::error::QdiscError;
use super::install::ClosedFilters;
use super::layout::Layout;

/// The filters of a gate on one device.
#[derive(Debug)]
pub(super) struct Site {
    /// The device's name.
    pub(super) name: String,
    /// What is held there.
    pub(super) coverage: Coverage,
    pub(super) filters: Vec<(ClosedFilters, Layout)>,
    /// Whether filters of others come before ours.
    pub(super) behind_others: bool,
}

impl Site {
    /// Begins to hold on this device.
    pub(super) fn open(&self) -> Result<(), QdiscError> {
        self.filters.iter().try_for_each(|(closed, layout)| closed.open(&self.name, layout))
    }

    /// Removes the filters. A filter that stays is found by its mark when the hold is released.
    pub(super) fn remove(&self) {
        for (closed, _) in &self.filters {
            if let Err(error) = closed.filters().remove() {
                log::warn!("filters of a hold stay on {} until it is released: {error}", self.name);
            }
        }
    }
}
