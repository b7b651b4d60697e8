//! What a daemon that was killed left in the packet path.

use rustix::io::Errno;

use super::attachment::{CLSACT_IS_OURS, MARK, is_gone, remove_unused_clsact};
use super::error::CounterError;
use crate::gate::programs::SYN_PROGRAM;
use crate::kernel::devices::{self, Device};
use crate::kernel::tc::{self, Direction, Filter};

/// Removes what a daemon that was killed left on the devices of the calling thread's network namespace: filters, and the
/// `clsact` that it had made for them. TCX leaves nothing. To be called while no counter is attached.
///
/// # Errors
/// Where the devices cannot be listed or something of ours cannot be removed, after everything else was.
pub fn remove_stale() -> Result<usize, CounterError> {
    let mut removed = 0;
    let mut first_error = None;
    for device in devices::list().map_err(|source| CounterError::Stale { source })? {
        match remove_stale_from(&device) {
            Ok(count) => removed += count,
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    first_error.map_or(Ok(removed), Err)
}

fn remove_stale_from(device: &Device) -> Result<usize, CounterError> {
    let filters = tc::filters(device.index, Direction::Ingress).or_else(|error| {
        if is_gone(Errno::from_io_error(&error)) { Ok(Vec::new()) } else { Err(CounterError::Stale { source: error }) }
    })?;
    let ours: Vec<&Filter> = filters.iter().filter(|filter| is_ours(filter)).collect();
    for filter in &ours {
        tc::remove_filter(device.index, Direction::Ingress, filter)
            .map_err(|error| CounterError::detach(&device.name, &error))?;
    }
    if ours.iter().any(|filter| filter.handle as u16 == CLSACT_IS_OURS) {
        remove_unused_clsact(device)?;
    }
    Ok(ours.len())
}

fn is_ours(filter: &Filter) -> bool {
    filter.program.as_deref() == Some(SYN_PROGRAM) && (filter.handle >> 16) as u16 == MARK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, handle: u32, program: Option<&str>) -> Filter {
        Filter { preference, handle, program: program.map(Into::into) }
    }

    #[test]
    fn only_name_and_handle_together_make_a_filter_ours() {
        assert!(is_ours(&filter(1, 0x5e1d_0001, Some(SYN_PROGRAM))));
        assert!(is_ours(&filter(7, 0x5e1d_0002, Some(SYN_PROGRAM))));
        assert!(!is_ours(&filter(1, 1, Some(SYN_PROGRAM))));
        assert!(!is_ours(&filter(1, 0x5e1d_0001, Some("cil_from_netdev"))));
        assert!(!is_ours(&filter(1, 0x5e1d_0001, None)));
    }
}
