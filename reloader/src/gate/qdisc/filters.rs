//! The filters of a hold in the kernel, and how they are removed.

use std::io;

use super::error::{is_busy, is_gone};
use super::retry::retry;
use crate::kernel::tc::u32_filter::{self, FilterPosition, entry_number};
use crate::kernel::tc::{ListedFilter, list_filters};

/// The entry of the root table that leads to all others. With it the hold begins and ends.
pub(super) const GATE: u16 = 2;

/// The filters of one hold on one side of a device, for one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filters {
    pub(super) position: FilterPosition,
    /// The root table, as the kernel has numbered it.
    pub(super) root: u32,
}

impl Filters {
    /// Ends the hold: new packets pass.
    pub(super) fn close(&self) -> io::Result<()> {
        tolerate_gone(u32_filter::remove(&self.position, self.root | u32::from(GATE)))
    }

    /// Removes everything. The mark goes last, so that an interrupted removal can be resumed.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.close()?;
        let FilterPosition { device, parent, .. } = self.position;
        let found = tolerate_gone(list_filters(device, parent))?;
        let ours = found.iter().filter(|found| is_at(found, &self.position) && found.handle != 0);
        let mut tables: Vec<u32> =
            ours.filter(|found| entry_number(found.handle) == 0).map(|found| found.handle).collect();
        tables.retain(|table| *table != self.root);
        self.remove_tables(tables)?;
        tolerate_gone(u32_filter::remove(&self.position, 0))
    }

    /// Removes tables in rounds, each of which removes those that have become free. A table to which a link leads is busy (EBUSY), and
    /// a removed link counts until the kernel has waited for packets on their way (`u32_delete_key` in net/sched/cls_u32.c).
    fn remove_tables(&self, mut tables: Vec<u32>) -> io::Result<()> {
        retry(|| {
            let mut busy = Vec::new();
            for table in &tables {
                match tolerate_gone(u32_filter::remove(&self.position, *table)) {
                    Err(error) if is_busy(&error) => busy.push(*table),
                    Err(error) => return Some(Err(error)),
                    Ok(()) => {}
                }
            }
            tables = busy;
            tables.is_empty().then_some(Ok(()))
        })
        .unwrap_or_else(|| Err(rustix::io::Errno::BUSY.into()))
    }
}

fn is_at(found: &ListedFilter, position: &FilterPosition) -> bool {
    found.preference == position.preference && found.protocol == position.protocol as u16 && found.kind == "u32"
}

/// What has gone needs no removal, and has no filters.
pub(super) fn tolerate_gone<T: Default>(result: io::Result<T>) -> io::Result<T> {
    result.or_else(|error| if is_gone(&error) { Ok(T::default()) } else { Err(error) })
}
