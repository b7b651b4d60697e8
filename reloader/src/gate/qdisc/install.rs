//! Puts a layout of tables into the kernel: closed at first, and opened by one entry.

use std::io;

use super::error::QdiscError;
use super::filters::{Filters, GATE};
use super::layout::{Layout, Step};
use super::marks::{Side, add_mark};
use crate::gate::failures::joined;
use crate::kernel::tc::u32_filter::{self, FilterPosition, ROOT_TABLE, U32Action};

/// Filters that are in the kernel. They hold nothing until they are opened.
#[derive(Debug)]
pub(super) struct ClosedFilters {
    filters: Filters,
    /// The first table behind the root table.
    first: u32,
}

impl ClosedFilters {
    /// Adds the tables, behind all filters of others. `hold` is what becomes of a SYN.
    pub(super) fn install(side: &Side<'_>, id: u16, layout: &Layout, hold: U32Action<u32>) -> Result<Self, QdiscError> {
        let refused = |module| move |source| QdiscError::adding(side.name, "adding a filter", module, source);
        let filters = add_mark(side, id, layout.protocol).map_err(refused("cls_u32"))?;
        match fill(&filters.position, layout, hold) {
            Ok(first) => Ok(Self { filters, first }),
            Err(error) => {
                let stays = |source| QdiscError::LeftBehind { id, what: "a filter", source };
                let removed = filters.remove().map_err(stays);
                // The mark is in a table too, and worked. What is new are entries, and what they do.
                Err(joined(refused("act_mirred")(error), removed.err()))
            }
        }
    }

    /// Begins the hold. One message does it, for all packets at once.
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

/// Adds all tables with their entries. Returns the first table.
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
