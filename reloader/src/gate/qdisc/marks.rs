//! Marks the filters of a hold, so that they are told from those of others: by an entry that matches no packet, whose class has the
//! hold's id.

use std::io;

use super::error::is_taken;
use super::filters::{Filters, tolerate_gone};
use crate::kernel::tc::u32_filter::{self, FilterPosition, Protocol, entry_number, table_handle};
use crate::kernel::tc::{ListedFilter, list_filters};

/// The entry of the root table that is the mark.
const MARK: u16 = 1;

/// How often a mark is tried where other holds add theirs at the same time.
const ATTEMPTS: u32 = 3;

/// Whether a hold has added the qdisc that runs the filters. It is the upper half of a mark's class. The lower half is the hold's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The qdisc was there before.
    Borrowed = 0x5e1d,
    /// A hold has added the qdisc. It is in the mark, so that a later process knows it after a `kill -9`.
    Created = 0x5e1e,
}

/// One side of a device, on which filters can be put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    /// The device, by index and name.
    pub(super) device: u32,
    pub(super) name: &'a str,
    /// The qdisc that runs the filters.
    pub(super) parent: u32,
    pub(super) ownership: Ownership,
}

/// The filters of one hold, as their mark describes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MarkedFilters {
    /// The hold's id.
    pub(super) id: u16,
    pub(super) ownership: Ownership,
    pub(super) filters: Filters,
}

/// The filters of holds on a side of a device.
pub(super) fn marked(device: u32, parent: u32) -> io::Result<Vec<MarkedFilters>> {
    let found = tolerate_gone(list_filters(device, parent))?;
    Ok(found.iter().filter_map(|found| read_mark(device, parent, found)).collect())
}

fn read_mark(device: u32, parent: u32, found: &ListedFilter) -> Option<MarkedFilters> {
    let class = found.class.filter(|_| found.kind == "u32" && entry_number(found.handle) == u32::from(MARK))?;
    let ownership = [Ownership::Borrowed, Ownership::Created].into_iter().find(|mark| *mark as u32 == class >> 16)?;
    let protocol = [Protocol::Ipv4, Protocol::Ipv6].into_iter().find(|known| *known as u16 == found.protocol)?;
    let position = FilterPosition { device, parent, protocol, preference: found.preference };
    Some(MarkedFilters { id: class as u16, ownership, filters: Filters { position, root: table_handle(found.handle) } })
}

/// The filters on a side of a device that belong to no hold, one for each preference.
pub(super) fn of_others(device: u32, parent: u32) -> io::Result<Vec<ListedFilter>> {
    let all = tolerate_gone(list_filters(device, parent))?;
    let marked = all.iter().filter_map(|found| read_mark(device, parent, found));
    let ours: Vec<u16> = marked.map(|marked| marked.filters.position.preference).collect();
    let mut others: Vec<ListedFilter> = all.into_iter().filter(|found| !ours.contains(&found.preference)).collect();
    others.dedup_by_key(|found| found.preference);
    Ok(others)
}

/// Adds the mark, which is the first message for a hold's filters.
pub(super) fn add_mark(side: &Side<'_>, id: u16, protocol: Protocol) -> io::Result<Filters> {
    let class = (side.ownership as u32) << 16 | u32::from(id);
    let mut attempts = ATTEMPTS;
    loop {
        let preference = last_free(&list_filters(side.device, side.parent)?);
        let position = FilterPosition { device: side.device, parent: side.parent, protocol, preference };
        match u32_filter::add_marker(&position, MARK, class) {
            // Another hold has taken the preference in between.
            Err(error) if is_taken(&error) && attempts > 0 => attempts -= 1,
            added => return added.map(|handle| Filters { position, root: table_handle(handle) }),
        }
    }
}

/// A preference behind all filters of others. What comes back from the ifb skips them (`tc_skip_classify`), so they must see it before.
fn last_free(found: &[ListedFilter]) -> u16 {
    /// A filter that was added without a preference gets 49152 or less from the kernel.
    const FIRST: u16 = 0xff00;
    let last_used = found.iter().map(|found| found.preference).max().unwrap_or(0);
    let behind = last_used.checked_add(1).map(|next| next.max(FIRST));
    behind.unwrap_or_else(|| {
        let free = |preference: &u16| found.iter().all(|found| found.preference != *preference);
        // 0 lets the kernel choose, and say why it cannot.
        (1..u16::MAX).rev().find(free).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(preference: u16, handle: u32, class: Option<u32>) -> ListedFilter {
        ListedFilter { preference, protocol: 0x0800, kind: "u32".into(), handle, class, program: None }
    }

    #[test]
    fn the_preference_comes_behind_all_others_where_there_is_room() {
        assert_eq!(last_free(&[]), 0xff00);
        assert_eq!(last_free(&[found(49152, 0, None), found(1, 0, None)]), 0xff00);
        assert_eq!(last_free(&[found(0xff00, 0, None), found(0xff01, 0, None)]), 0xff02);
        assert_eq!(last_free(&[found(0xffff, 0, None)]), 0xfffe);
    }

    #[test]
    fn only_a_mark_makes_filters_ours() {
        let marked = read_mark(2, 5, &found(0xff00, 0x8030_0001, Some(0x5e1e_0007))).unwrap();
        assert_eq!((marked.id, marked.ownership, marked.filters.root), (7, Ownership::Created, 0x8030_0000));
        let position = FilterPosition { device: 2, parent: 5, protocol: Protocol::Ipv4, preference: 0xff00 };
        assert_eq!(marked.filters.position, position);
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0001, Some(0x1_0007))).is_none());
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0003, Some(0x5e1e_0007))).is_none());
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0001, None)).is_none());
    }
}
