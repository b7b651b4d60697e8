//! Delivers parked SYNs, and counts what became of them.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};
use socket2::{Domain, Socket, Type};

use super::handshakes::Handshakes;
use super::maps::since;
use super::pacing::Pacing;
use super::packet::{Flow, Parked};
use super::sockets::Sockets;
use crate::gate::contract::HoldStats;
use crate::kernel::devices::LO;

/// The devices by which SYNs can be delivered, by index.
pub(super) struct DeliveryRoutes {
    /// Devices that have our program at egress. On any other device a frame would go out to the network, with our mark.
    pub(super) back: HashSet<u32>,
    /// Devices whose packets begin without an Ethernet header.
    pub(super) bare: HashSet<u32>,
}

/// What was delivered so far.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    flows: HashSet<Flow>,
    pub(super) handshakes: Handshakes,
    pacing: Pacing,
    released: u64,
    /// How many SYNs were not delivered, because their device has gone.
    device_gone: u64,
    /// How many SYNs the kernel refused.
    pub(super) refused: u64,
    pub(super) first_refusal: Option<io::Error>,
    longest: Duration,
}

impl Delivered {
    /// Delivers one record of the ring.
    pub(super) fn deliver(&mut self, sockets: &Sockets, record: &[u8], routes: &DeliveryRoutes) {
        let Some(parked) = Parked::read(record) else { return };
        let ethernet = !routes.bare.contains(&parked.device);
        let Some(segment) = parked.segment(ethernet) else {
            self.refuse(io::ErrorKind::InvalidData.into());
            return;
        };
        // A client that has sent its SYN again waits for one answer.
        if !self.flows.insert(segment.flow) {
            return;
        }
        if parked.device != LO && !routes.back.contains(&parked.device) {
            self.device_gone += 1;
            return;
        }
        self.pacing.wait_for_room(segment.destination());
        match sockets.send(&parked, &segment, ethernet) {
            Ok(()) => {
                self.handshakes.begun(&segment);
                self.released += 1;
                self.longest = self.longest.max(since(parked.arrived));
            }
            Err(error) if device_has_gone(&error) => self.device_gone += 1,
            Err(error) => self.refuse(error),
        }
    }

    /// All that became of the SYNs, with what the programs have counted.
    pub(super) fn stats(&self, [held, dropped, lease_lapsed]: [u64; 3]) -> HoldStats {
        let Delivered { released, device_gone, longest, .. } = *self;
        HoldStats { held, released, dropped, device_gone, lease_lapsed, longest }
    }

    fn refuse(&mut self, error: io::Error) {
        self.refused += 1;
        self.first_refusal.get_or_insert(error);
    }
}

fn device_has_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NODEV | Errno::NXIO | Errno::NETDOWN))
}

/// Returns when no program runs any more that ran when this was called.
pub(super) fn wait_for_running_programs() -> io::Result<()> {
    // Both calls end in a `synchronize_rcu` of the kernel. The first needs CONFIG_MEMBARRIER, and a kernel without `nohz_full`.
    if membarrier(MembarrierCommand::Global).is_ok() {
        return Ok(());
    }
    // `packet_release` in net/packet/af_packet.c.
    Socket::new(Domain::PACKET, Type::RAW, None).map(drop)
}
