//! The program on one device, and nothing of it afterwards.

use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{Link as _, ProgramError, SchedClassifier, TcAttachType};
use rustix::io::Errno;

use super::error::CounterError;
use crate::gate::programs::SYN_PROGRAM;
use crate::kernel::bpf::errno;
use crate::kernel::devices::{self, Device};
use crate::kernel::tc::{self, Direction, Filter};

/// The upper half of the handles of our filters: together with the name it says that a filter is ours.
const MARK: u16 = 0x5e1d;
/// The lower half, on a device that had a `clsact` (or `ingress`) before us.
const CLSACT_WAS_THERE: u16 = 1;
/// The lower half, on a device whose `clsact` is our making. It has to be known after a `kill -9` too.
const CLSACT_IS_OURS: u16 = 2;

/// How a program gets into the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// From Linux 6.6 on: goes with the process that put it there.
    Tcx,
    /// A filter of the `clsact` qdisc: stays until somebody removes it.
    Clsact,
}

/// A program on a device.
pub(super) struct Attachment {
    device: Device,
    link: SchedClassifierLink,
    clsact_is_ours: bool,
}

impl Attachment {
    /// Attaches the program before all others, so that what they drop was seen. `None` where the device has vanished.
    /// Without a `hook`, TCX is tried first, and what was found is kept there.
    pub(super) fn make(
        program: &mut SchedClassifier,
        hook: &mut Option<Hook>,
        device: &Device,
    ) -> Result<Option<Self>, CounterError> {
        let made = match *hook {
            Some(Hook::Clsact) => Self::by_clsact(program, device),
            Some(Hook::Tcx) => Self::by_tcx(program, device),
            None => match Self::by_tcx(program, device) {
                // bpf(2) does not know the attach type.
                Err(error) if errno(&error) == Some(Errno::INVAL) => {
                    *hook = Some(Hook::Clsact);
                    Self::by_clsact(program, device)
                }
                made => {
                    *hook = made.is_ok().then_some(Hook::Tcx);
                    made
                }
            },
        };
        match made {
            Ok(attachment) => Ok(Some(attachment)),
            Err(error) if device_is_gone(errno(&error)) => Ok(None),
            Err(error) => Err(CounterError::attach(&device.name, &error)),
        }
    }

    fn by_tcx(program: &mut SchedClassifier, device: &Device) -> Result<Self, ProgramError> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(&device.name, TcAttachType::Ingress, options)?;
        Ok(Self { device: device.clone(), link: program.take_link(id)?, clsact_is_ours: false })
    }

    fn by_clsact(program: &mut SchedClassifier, device: &Device) -> Result<Self, ProgramError> {
        let clsact_is_ours = match qdisc_add_clsact(&device.name) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let attached = Self::filter(program, device, clsact_is_ours);
        if attached.is_err() && clsact_is_ours {
            let _ = remove_unused_clsact(device);
        }
        Ok(Self { device: device.clone(), link: attached?, clsact_is_ours })
    }

    fn filter(
        program: &mut SchedClassifier,
        device: &Device,
        clsact_is_ours: bool,
    ) -> Result<SchedClassifierLink, ProgramError> {
        let minor = if clsact_is_ours { CLSACT_IS_OURS } else { CLSACT_WAS_THERE };
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: lowest_free(&tc::filters(device.index, Direction::Ingress)?),
            handle: TcHandle::new(MARK, minor),
            classid: None,
        });
        let id = program.attach_with_options(&device.name, TcAttachType::Ingress, options)?;
        program.take_link(id)
    }

    /// Takes the program off. A device that is gone took it along.
    pub(super) fn remove(self) -> Result<(), CounterError> {
        let Self { device, link, clsact_is_ours } = self;
        match link.detach() {
            Err(error) if !is_gone(errno(&error)) => return Err(CounterError::detach(&device.name, &error)),
            _ => {}
        }
        if clsact_is_ours {
            remove_unused_clsact(&device)?;
        }
        Ok(())
    }
}

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

/// Somebody may have come to use our `clsact`. Between the look and the removal somebody still may: netlink has no "remove if
/// unused".
fn remove_unused_clsact(device: &Device) -> Result<(), CounterError> {
    let removed = (|| {
        for direction in [Direction::Ingress, Direction::Egress] {
            if !tc::filters(device.index, direction)?.is_empty() {
                return Ok(());
            }
        }
        tc::remove_clsact(device.index)
    })();
    match removed {
        Err(error) if !is_gone(Errno::from_io_error(&error)) => Err(CounterError::detach(&device.name, &error)),
        _ => Ok(()),
    }
}

fn lowest_free(filters: &[Filter]) -> u16 {
    (1..u16::MAX)
        .find(|preference| filters.iter().all(|filter| filter.preference != *preference))
        // 0 lets the kernel choose, and say why it cannot.
        .unwrap_or(0)
}

fn device_is_gone(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::NODEV | Errno::NXIO))
}

/// When adding, ENOENT has another meaning: a kernel without `clsact` or `cls_bpf`.
fn is_gone(errno: Option<Errno>) -> bool {
    device_is_gone(errno) || errno == Some(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, handle: u32, program: Option<&str>) -> Filter {
        Filter { preference, handle, program: program.map(Into::into) }
    }

    #[test]
    fn the_lowest_free_preference_comes_before_everybody_it_can() {
        assert_eq!(lowest_free(&[]), 1);
        assert_eq!(lowest_free(&[filter(49152, 1, None), filter(2, 1, None)]), 1);
        assert_eq!(lowest_free(&[filter(1, 0, None), filter(1, 1, None), filter(3, 1, None)]), 2);
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
