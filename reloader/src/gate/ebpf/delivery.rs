//! Sends parked SYNs the rest of their way.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};
use socket2::{Domain, Protocol, Socket, Type};

use super::handshakes::Handshakes;
use super::maps::since;
use super::pacing::Pacing;
use super::packet::{Flow, Parked, Segment};
use crate::gate::hold::HoldStats;
use crate::kernel::devices::LO;
use crate::sys::link_address;

/// What a process needs to deliver, in the namespace that they were opened in.
pub(super) struct Sockets {
    /// For devices whose packets begin with an Ethernet header.
    ethernet: Socket,
    /// For all others: the kernel makes the link header, if there is one.
    bare: Socket,
    ipv4: Socket,
    /// None where the kernel has no IPv6.
    ipv6: Option<Socket>,
}

impl Sockets {
    pub(super) fn open(mark: u32) -> io::Result<Self> {
        // IPPROTO_RAW: our own IP headers, and nothing is ever received.
        let raw = Some(Protocol::from(255));
        let marked = |kind| {
            // Without a protocol a packet socket receives nothing either.
            let socket = Socket::new(Domain::PACKET, kind, None)?;
            socket.set_mark(mark)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self {
            ethernet: marked(Type::RAW)?,
            bare: marked(Type::DGRAM)?,
            ipv4: Socket::new(Domain::IPV4, Type::RAW, raw)?,
            ipv6: match Socket::new(Domain::IPV6, Type::RAW, raw) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT) => None,
                socket => Some(socket?),
            },
        })
    }

    /// From duplicates, in the order of [`duplicates`](Self::duplicates).
    pub(super) fn from_duplicates(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut sockets = descriptors.into_iter().map(Socket::from);
        Some(Self { ethernet: sockets.next()?, bare: sockets.next()?, ipv4: sockets.next()?, ipv6: sockets.next() })
    }

    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets = [&self.ethernet, &self.bare, &self.ipv4].into_iter().chain(&self.ipv6);
        sockets.map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    fn send(&self, parked: &Parked<'_>, segment: &Segment, ethernet: bool) -> io::Result<()> {
        let mut frame = parked.frame.to_vec();
        segment.complete_checksum(&mut frame);
        let packet = &frame[segment.ip..];
        let sent = if parked.device == LO {
            self.send_locally(packet, segment)
        } else {
            let address = link_address(parked.device, parked.ethertype);
            if ethernet { self.ethernet.send_to(&frame, &address) } else { self.bare.send_to(packet, &address) }
        };
        sent.map(drop)
    }

    /// Without a route attached the packet would be a martian when it comes in by `lo`: it takes the way that it has taken
    /// before, from the sender on. Without a mark, which people's rules for outgoing packets would meet.
    fn send_locally(&self, packet: &[u8], segment: &Segment) -> io::Result<usize> {
        let destination = segment.destination().ip();
        let socket = if destination.is_ipv4() { Some(&self.ipv4) } else { self.ipv6.as_ref() };
        // A raw socket wants no port. A link-local address needs no scope either: it is one of ours, and its route says where.
        socket.ok_or(io::ErrorKind::Unsupported)?.send_to(packet, &SocketAddr::new(destination, 0).into())
    }
}

/// How the devices take what is delivered.
pub(super) struct DeliveryRoutes {
    /// Those that have our program at egress. On any other a frame would go out to the network, with our mark.
    pub(super) back: HashSet<u32>,
    /// Those whose packets begin with no Ethernet header.
    pub(super) bare: HashSet<u32>,
}

/// What was delivered so far.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    flows: HashSet<Flow>,
    pub(super) handshakes: Handshakes,
    pacing: Pacing,
    pub(super) released: u64,
    /// Their device has gone.
    pub(super) device_gone: u64,
    /// The kernel would not take them.
    pub(super) refused: u64,
    pub(super) first_refusal: Option<io::Error>,
    pub(super) longest: Duration,
}

impl Delivered {
    /// Delivers one record.
    pub(super) fn deliver(&mut self, sockets: &Sockets, record: &[u8], ways: &DeliveryRoutes) {
        let Some(parked) = Parked::read(record) else { return };
        let ethernet = !ways.bare.contains(&parked.device);
        let Some(segment) = parked.segment(ethernet) else {
            self.refuse(io::ErrorKind::InvalidData.into());
            return;
        };
        // A client that has sent it again waits for one answer.
        if !self.flows.insert(segment.flow) {
            return;
        }
        if parked.device != LO && !ways.back.contains(&parked.device) {
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

    /// With what the programs have counted: held, dropped, lapsed.
    pub(super) fn figures(&self, [held, dropped, lease_lapsed]: [u64; 3]) -> HoldStats {
        let Delivered { released, device_gone: homeless, longest, .. } = *self;
        HoldStats { held, released, dropped, device_gone: homeless, lease_lapsed, longest }
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
    // Both are a `synchronize_rcu` in the kernel. The first needs CONFIG_MEMBARRIER, and a kernel without `nohz_full`.
    if membarrier(MembarrierCommand::Global).is_ok() {
        return Ok(());
    }
    // `packet_release` in net/packet/af_packet.c.
    Socket::new(Domain::PACKET, Type::RAW, None).map(drop)
}
