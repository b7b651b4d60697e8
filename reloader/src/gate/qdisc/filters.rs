//! A layout in the kernel: put there closed, opened by one entry, and told from everybody else's by a mark.

use std::io;

use super::error::{QdiscError, is_busy, is_gone, is_taken};
use super::layout::{Layout, Step};
use crate::kernel::tc::u32_filter::{
    self, FilterPosition, Protocol, ROOT_TABLE, U32Action, entry_number, table_handle,
};
use crate::kernel::tc::{ListedFilter, list_filters};

/// The upper half of a mark's class, the lower being the hold's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The qdisc that asks the filters was there before.
    Borrowed = 0x5e1d,
    /// The qdisc is our making. It has to be known after a `kill -9` too.
    Created = 0x5e1e,
}

/// Entries of the root table.
const MARK: u16 = 1;
const GATE: u16 = 2;

/// The filters of one hold on one side of a device, for one protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filters {
    pub(super) position: FilterPosition,
    /// The root table, as the kernel has numbered it.
    root: u32,
}

/// Where filters are to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) device: u32,
    pub(super) name: &'a str,
    pub(super) parent: u32,
    pub(super) ownership: Ownership,
}

/// Filters that were put there and hold nothing yet, and their first table.
#[derive(Debug)]
pub(super) struct Closed {
    filters: Filters,
    first: u32,
}

impl Closed {
    /// Puts the tables there, behind all filters of others. `hold` is what becomes of a SYN.
    pub(super) fn install(side: &Side<'_>, id: u16, layout: &Layout, hold: U32Action<u32>) -> Result<Self, QdiscError> {
        let refused = |module| move |source| QdiscError::adding(side.name, "adding a filter", module, source);
        let (position, mark) = mark(side, id, layout.protocol).map_err(refused("cls_u32"))?;
        let filters = Filters { position, root: table_handle(mark) };
        match fill(&position, layout, hold) {
            Ok(first) => Ok(Self { filters, first }),
            Err(error) => {
                // The first error is the one to report.
                let _ = filters.remove();
                // Tables worked already: what is new are entries, and what they do.
                Err(refused("act_mirred")(error))
            }
        }
    }

    /// Begins the hold. What one message does is done for every packet at once.
    pub(super) fn open(&self, side: &str, layout: &Layout) -> Result<(), QdiscError> {
        u32_filter::add_entry(
            &self.filters.position,
            ROOT_TABLE,
            GATE,
            &layout.gate,
            &U32Action::Jump(self.first, None),
        )
        .map(drop)
        .map_err(|source| QdiscError::adding(side, "diverting SYNs", "cls_u32", source))
    }

    pub(super) fn filters(&self) -> &Filters {
        &self.filters
    }
}

impl Filters {
    /// Ends the hold: new packets go straight on.
    pub(super) fn close(&self) -> io::Result<()> {
        tolerant(u32_filter::remove(&self.position, self.root | u32::from(GATE)))
    }

    /// Removes everything; the mark goes last, so that what is interrupted can be gone on with.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.close()?;
        let FilterPosition { device, parent, .. } = self.position;
        let found = tolerant_list(list_filters(device, parent))?;
        let ours = found.iter().filter(|found| is_at(found, &self.position) && found.handle != 0);
        let mut tables: Vec<u32> =
            ours.filter(|found| entry_number(found.handle) == 0).map(|found| found.handle).collect();
        tables.retain(|table| *table != self.root);
        self.remove_tables(tables)?;
        tolerant(u32_filter::remove(&self.position, 0))
    }

    /// A table that a link leads to is busy (EBUSY), and a link that was removed counts until the kernel has waited for the
    /// packets on their way (`u32_delete_key` in net/sched/cls_u32.c): each round removes what has become free.
    fn remove_tables(&self, mut tables: Vec<u32>) -> io::Result<()> {
        super::patiently(|| {
            let mut busy = Vec::new();
            for table in &tables {
                match tolerant(u32_filter::remove(&self.position, *table)) {
                    Err(error) if is_busy(&error) => busy.push((*table, error)),
                    Err(error) => return Some(Err(error)),
                    Ok(()) => {}
                }
            }
            tables = busy.iter().map(|(table, _)| *table).collect();
            busy.pop().is_none().then_some(Ok(()))
        })
        .unwrap_or_else(|| Err(rustix::io::Errno::BUSY.into()))
    }
}

/// The filters of holds among those of a device's side: of which hold, and how they are marked.
pub(super) fn marked(device: u32, parent: u32) -> io::Result<Vec<(u16, Ownership, Filters)>> {
    let found = tolerant_list(list_filters(device, parent))?;
    Ok(found.iter().filter_map(|found| read_mark(device, parent, found)).collect())
}

fn read_mark(device: u32, parent: u32, found: &ListedFilter) -> Option<(u16, Ownership, Filters)> {
    let class = found.class.filter(|_| found.kind == "u32" && entry_number(found.handle) == u32::from(MARK))?;
    let mark = [Ownership::Borrowed, Ownership::Created].into_iter().find(|mark| *mark as u32 == class >> 16)?;
    let protocol = [Protocol::Ipv4, Protocol::Ipv6].into_iter().find(|known| *known as u16 == found.protocol)?;
    let position = FilterPosition { device, parent, protocol, preference: found.preference };
    Some((class as u16, mark, Filters { position, root: table_handle(found.handle) }))
}

/// The filters of a device's side that are nobody's hold, one for each preference.
pub(super) fn of_others(device: u32, parent: u32) -> io::Result<Vec<ListedFilter>> {
    let all = tolerant_list(list_filters(device, parent))?;
    let ours: Vec<u16> = marked_among(device, parent, &all).map(|filters| filters.position.preference).collect();
    let mut others: Vec<ListedFilter> = all.into_iter().filter(|found| !ours.contains(&found.preference)).collect();
    others.dedup_by_key(|found| found.preference);
    Ok(others)
}

fn marked_among(device: u32, parent: u32, all: &[ListedFilter]) -> impl Iterator<Item = Filters> {
    all.iter().filter_map(move |found| read_mark(device, parent, found)).map(|(_, _, filters)| filters)
}

/// The first message, which says whose filters these are.
fn mark(side: &Side<'_>, id: u16, protocol: Protocol) -> io::Result<(FilterPosition, u32)> {
    let class = (side.ownership as u32) << 16 | u32::from(id);
    let mut attempts = 3;
    loop {
        let preference = last_free(&list_filters(side.device, side.parent)?);
        let position = FilterPosition { device: side.device, parent: side.parent, protocol, preference };
        match u32_filter::add_marker(&position, MARK, class) {
            // Another hold was quicker.
            Err(error) if is_taken(&error) && attempts > 0 => attempts -= 1,
            added => return added.map(|handle| (position, handle)),
        }
    }
}

/// Behind everybody: what comes back from the ifb skips them all (`tc_skip_classify`), so they have to see it before.
fn last_free(found: &[ListedFilter]) -> u16 {
    /// Whoever does not say a preference gets 49152 or less from the kernel.
    const FIRST: u16 = 0xff00;
    let last_used = found.iter().map(|found| found.preference).max().unwrap_or(0);
    let behind = last_used.checked_add(1).map(|next| next.max(FIRST));
    behind.unwrap_or_else(|| {
        let free = |preference: &u16| found.iter().all(|found| found.preference != *preference);
        // 0 lets the kernel choose, and say why it cannot.
        (1..u16::MAX).rev().find(free).unwrap_or(0)
    })
}

fn fill(position: &FilterPosition, layout: &Layout, hold: U32Action<u32>) -> io::Result<u32> {
    let handles = layout.tables.iter().map(|_| u32_filter::add_table(position)).collect::<io::Result<Vec<u32>>>()?;
    for (table, entries) in handles.iter().zip(&layout.tables) {
        for (number, entry) in (1..).zip(entries) {
            let then = match entry.then {
                Step::Hold => hold,
                Step::Go(table, skip) => U32Action::Jump(handles[table], skip),
            };
            u32_filter::add_entry(position, *table, number, &entry.keys, &then)?;
        }
    }
    Ok(handles[0])
}

fn is_at(found: &ListedFilter, position: &FilterPosition) -> bool {
    found.preference == position.preference && found.protocol == position.protocol as u16 && found.kind == "u32"
}

fn tolerant(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(error) })
}

fn tolerant_list(found: io::Result<Vec<ListedFilter>>) -> io::Result<Vec<ListedFilter>> {
    found.or_else(|error| if is_gone(&error) { Ok(Vec::new()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(preference: u16, handle: u32, class: Option<u32>) -> ListedFilter {
        ListedFilter { preference, protocol: 0x0800, kind: "u32".into(), handle, class, program: None }
    }

    #[test]
    fn the_last_preference_comes_behind_everybody_it_can() {
        assert_eq!(last_free(&[]), 0xff00);
        assert_eq!(last_free(&[found(49152, 0, None), found(1, 0, None)]), 0xff00);
        assert_eq!(last_free(&[found(0xff00, 0, None), found(0xff01, 0, None)]), 0xff02);
        assert_eq!(last_free(&[found(0xffff, 0, None)]), 0xfffe);
    }

    #[test]
    fn only_a_mark_tells_whose_filters_they_are() {
        let (id, mark, filters) = read_mark(2, 5, &found(0xff00, 0x8030_0001, Some(0x5e1e_0007))).unwrap();
        assert_eq!((id, mark, filters.root), (7, Ownership::Created, 0x8030_0000));
        assert_eq!(
            filters.position,
            FilterPosition { device: 2, parent: 5, protocol: Protocol::Ipv4, preference: 0xff00 }
        );
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0001, Some(0x1_0007))).is_none());
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0003, Some(0x5e1e_0007))).is_none());
        assert!(read_mark(2, 5, &found(0xff00, 0x8030_0001, None)).is_none());
    }
}
