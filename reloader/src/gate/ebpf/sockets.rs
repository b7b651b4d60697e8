//! The sockets by which SYNs are delivered.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::{Parked, Segment};
use crate::kernel::devices::LO;
use crate::sys::link_address;

/// The sockets by which a process delivers, in the network namespace in which they were opened.
pub(super) struct Sockets {
    /// For devices whose packets begin with an Ethernet header.
    ethernet: PacketSocket,
    /// For all other devices. The kernel makes the link header, if there is one.
    bare: PacketSocket,
    ipv4: Socket,
    /// `None` where the kernel has no IPv6.
    ipv6: Option<Socket>,
}

impl Sockets {
    /// Opens the sockets. `mark` goes with each SYN that leaves by a device other than `lo`.
    pub(super) fn open(mark: u32) -> io::Result<Self> {
        // IPPROTO_RAW: packets come with their own IP header, and nothing is ever received.
        let raw = Some(Protocol::from(255));
        let marked = |kind| {
            // Without a protocol a packet socket receives nothing either.
            let socket = Socket::new(Domain::PACKET, kind, None)?;
            socket.set_mark(mark)?;
            Ok::<_, io::Error>(PacketSocket(Some(socket)))
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

    /// The sockets from duplicates, in the order of [`duplicates`](Self::duplicates). `None` where there are too few.
    pub(super) fn from_duplicates(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut sockets = descriptors.into_iter().map(Socket::from);
        let ethernet = PacketSocket(Some(sockets.next()?));
        let bare = PacketSocket(Some(sockets.next()?));
        Some(Self { ethernet, bare, ipv4: sockets.next()?, ipv6: sockets.next() })
    }

    /// Duplicates of all sockets.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let packet = self.ethernet.0.iter().chain(&self.bare.0);
        let sockets = packet.chain([&self.ipv4]).chain(&self.ipv6);
        sockets.map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// Sends a SYN the rest of its way. `ethernet` says how the packets of its device begin.
    pub(super) fn send(&self, parked: &Parked<'_>, segment: &Segment, ethernet: bool) -> io::Result<()> {
        let mut frame = parked.frame.to_vec();
        segment.complete_checksum(&mut frame);
        let packet = &frame[segment.ip..];
        let sent = if parked.device == LO {
            self.send_locally(packet, segment)
        } else {
            let address = link_address(parked.device, parked.ethertype);
            let (socket, content) = if ethernet { (&self.ethernet, &frame[..]) } else { (&self.bare, packet) };
            socket.0.as_ref().ok_or(io::ErrorKind::NotConnected)?.send_to(content, &address)
        };
        sent.map(drop)
    }

    /// Sends a SYN of a local client as the client did. A packet that comes in by `lo` without a route attached would be a martian. It
    /// has no mark, because rules for outgoing packets may look at marks.
    fn send_locally(&self, packet: &[u8], segment: &Segment) -> io::Result<usize> {
        let destination = segment.destination().ip();
        let socket = if destination.is_ipv4() { Some(&self.ipv4) } else { self.ipv6.as_ref() };
        // A raw socket wants no port. A link-local address needs no scope either: it is one of ours, and its route tells the device.
        socket.ok_or(io::ErrorKind::Unsupported)?.send_to(packet, &SocketAddr::new(destination, 0).into())
    }
}

/// A packet socket, there until it is dropped. The kernel closes it after a grace period (`packet_release`): with two of them, half of the time
/// that a release takes. So a thread closes it, and the holder goes on.
struct PacketSocket(Option<Socket>);

impl Drop for PacketSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            // Without a thread it is closed here.
            drop(std::thread::Builder::new().name("closer".into()).spawn(move || drop(socket)));
        }
    }
}
