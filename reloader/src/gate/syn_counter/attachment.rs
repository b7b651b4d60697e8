//! The program on one device, and nothing of it afterwards.

use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{Link as _, ProgramError, SchedClassifier, TcAttachType};
use rustix::io::Errno;

use super::error::CounterError;
use crate::kernel::bpf::errno;
use crate::kernel::devices::Device;
use crate::kernel::tc::{self, Direction, Filter};

/// The upper half of the handles of our filters: together with the name it says that a filter is ours.
pub(super) const MARK: u16 = 0x5e1d;
/// The lower half, on a device that had a `clsact` (or `ingress`) before us.
const CLSACT_WAS_THERE: u16 = 1;
/// The lower half, on a device whose `clsact` is our making. It has to be known after a `kill -9` too.
pub(super) const CLSACT_IS_OURS: u16 = 2;

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
    way: Way,
}

enum Way {
    /// With the kernel's number of the program.
    Tcx { program: u32 },
    /// Whether the `clsact` is our making.
    Clsact { is_ours: bool },
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
        let attached = patiently(|| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            match program.attach_with_options(&device.name, TcAttachType::Ingress, options) {
                Err(error) if errno(&error) == Some(Errno::EXIST) => None,
                attached => Some(attached),
            }
        });
        let id = attached.ok_or(ProgramError::AlreadyAttached)??;
        let way = Way::Tcx { program: program.info()?.id() };
        Ok(Self { device: device.clone(), link: program.take_link(id)?, way })
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
        Ok(Self { device: device.clone(), link: attached?, way: Way::Clsact { is_ours: clsact_is_ours } })
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
        let Self { device, link, way } = self;
        match link.detach() {
            Err(error) if !is_gone(errno(&error)) => return Err(CounterError::detach(&device.name, &error)),
            _ => {}
        }
        match way {
            Way::Tcx { program } => wait_for_tcx(&device, program),
            Way::Clsact { is_ours: true } => remove_unused_clsact(&device),
            Way::Clsact { is_ours: false } => Ok(()),
        }
    }
}

/// A TCX program goes with the last descriptor of its link, and a child of ours that is between fork and exec has one too:
/// a matter of a millisecond, but "nothing is left" is to be true when we say it.
fn wait_for_tcx(device: &Device, program: u32) -> Result<(), CounterError> {
    let gone = patiently(|| match SchedClassifier::query_tcx(&device.name, TcAttachType::Ingress) {
        Ok((_, programs)) if programs.iter().any(|found| found.id() == program) => None,
        // Without CAP_SYS_ADMIN the kernel does not name the programs, if there are any: it takes ours away all the same.
        _ => Some(()),
    });
    gone.ok_or_else(|| CounterError::detach(&device.name, &ProgramError::AlreadyAttached))
}

/// Tries until there is a result, for half a second.
fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + Duration::from_millis(500);
    loop {
        match attempt() {
            None if Instant::now() < end => sleep(Duration::from_micros(500)),
            result => return result,
        }
    }
}

/// Somebody may have come to use our `clsact`. Between the look and the removal somebody still may: netlink has no "remove if
/// unused".
pub(super) fn remove_unused_clsact(device: &Device) -> Result<(), CounterError> {
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
pub(super) fn is_gone(errno: Option<Errno>) -> bool {
    device_is_gone(errno) || errno == Some(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, handle: u32) -> Filter {
        Filter { preference, handle, program: None }
    }

    #[test]
    fn the_lowest_free_preference_comes_before_everybody_it_can() {
        assert_eq!(lowest_free(&[]), 1);
        assert_eq!(lowest_free(&[filter(49152, 1), filter(2, 1)]), 1);
        assert_eq!(lowest_free(&[filter(1, 0), filter(1, 1), filter(3, 1)]), 2);
    }
}
