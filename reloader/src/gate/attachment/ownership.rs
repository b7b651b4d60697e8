//! Tells the filters of this program from others, by the program's name and the filter's handle. Pure.

use crate::kernel::tc::Filter;

/// The upper half of the handles of our filters.
const MARK: u16 = 0x5e1d;

/// A bit in the lower half of the handle, beside the [`Owner`]: this program has added the device's `clsact`. It is in the handle, so that
/// a later process knows it after a `kill -9`.
const CLSACT_IS_OURS: u16 = 0x8000;

/// What the names of all our programs begin with.
pub(super) const NAMES: &str = "reloader_";

/// Whose filter it is: [`COUNTER`], or the id of a hold.
pub(crate) type Owner = u16;

/// The SYN counter. No hold has this id.
pub(crate) const COUNTER: Owner = 0;

/// The halves of the handle of a filter: upper and lower.
pub(super) fn handle(owner: Owner, clsact_is_ours: bool) -> (u16, u16) {
    (MARK, owner | if clsact_is_ours { CLSACT_IS_OURS } else { 0 })
}

/// The program's name and the owner, where the filter is ours.
pub(super) fn owner(filter: &Filter) -> Option<(&str, Owner)> {
    let name = filter.program.as_deref().filter(|name| name.starts_with(NAMES))?;
    ((filter.handle >> 16) as u16 == MARK).then_some((name, filter.handle as u16 & !CLSACT_IS_OURS))
}

/// Whether the filter is ours and says that this program has added the `clsact`.
pub(super) fn clsact_is_ours(filter: &Filter) -> bool {
    owner(filter).is_some() && filter.handle as u16 & CLSACT_IS_OURS != 0
}

/// The lowest preference from `first` on that no filter has.
pub(super) fn lowest_free(first: u16, filters: &[Filter]) -> u16 {
    (first..u16::MAX)
        .find(|preference| filters.iter().all(|filter| filter.preference != *preference))
        // 0 lets the kernel choose, and say why it cannot.
        .unwrap_or(0)
}

/// Whether filters of others come before this preference. Our own do not count: they let everything pass that they are not for.
pub(super) fn is_behind_others(preference: u16, filters: &[Filter]) -> bool {
    let is_ours = |place: u16| filters.iter().any(|filter| filter.preference == place && owner(filter).is_some());
    filters.iter().any(|filter| filter.preference < preference && !is_ours(filter.preference))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, handle: u32, program: Option<&str>) -> Filter {
        Filter { preference, handle, program: program.map(Into::into) }
    }

    #[test]
    fn the_lowest_free_preference_is_taken() {
        assert_eq!(lowest_free(1, &[]), 1);
        assert_eq!(lowest_free(1, &[filter(49152, 1, None), filter(2, 1, None)]), 1);
        assert_eq!(lowest_free(1, &[filter(1, 0, None), filter(1, 1, None), filter(3, 1, None)]), 2);
        assert_eq!(lowest_free(2, &[filter(2, 1, None)]), 3);
    }

    #[test]
    fn filters_before_ours_are_others_unless_they_are_ours_too() {
        let ours = [filter(1, 0, None), filter(1, 0x5e1d_0007, Some("reloader_hold"))];
        assert!(!is_behind_others(2, &ours) && !is_behind_others(2, &[]));
        let other = filter(2, 1, Some("cil_from_netdev"));
        assert!(is_behind_others(3, &[&ours[..], std::slice::from_ref(&other)].concat()));
        assert!(!is_behind_others(1, &[other]));
    }

    #[test]
    fn only_name_and_handle_together_make_a_filter_ours() {
        let name = Some("reloader_syns");
        assert_eq!(owner(&filter(1, 0x5e1d_0000, name)), Some(("reloader_syns", 0)));
        assert_eq!(owner(&filter(7, 0x5e1d_8007, name)), Some(("reloader_syns", 7)));
        assert_eq!(owner(&filter(1, 1, name)), None);
        assert_eq!(owner(&filter(1, 0x5e1d_0001, Some("cil_from_netdev"))), None);
        assert_eq!(owner(&filter(1, 0x5e1d_8001, None)), None);
        assert!(clsact_is_ours(&filter(7, 0x5e1d_8007, name)));
        assert!(!clsact_is_ours(&filter(7, 0x5e1d_0007, name)));
        assert!(!clsact_is_ours(&filter(7, 0x5e1d_8007, Some("cil_from_netdev"))));
    }
}
