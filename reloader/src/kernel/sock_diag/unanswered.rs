//! Tells from a connection's TCP state whether the server owes an answer.

use netlink_packet_sock_diag::constants::{TCP_CLOSE_WAIT, TCP_ESTABLISHED};
use netlink_packet_sock_diag::inet::InetResponse;
use netlink_packet_sock_diag::inet::nlas::Nla;

/// Two events within this time, in milliseconds, have no order, because the kernel reports times in ticks of up to 10
/// ms.
const SAME_TIME_MS: u32 = 20;

/// A client that will speak first does so within this time, in milliseconds, even when it waits for a processor. Clients that
/// pre-connect stay silent for longer than this.
pub(super) const SPEAKS_FIRST_WITHIN_MS: u32 = 50;

pub(super) fn owes_an_answer(response: &InetResponse) -> bool {
    if response.header.inode == 0 {
        // A connection without an inode is still in the listener's accept queue (accept(2) gives it an inode), or the server has closed it and
        // left it to the kernel.
        return matches!(response.header.state, TCP_ESTABLISHED | TCP_CLOSE_WAIT);
    }
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info),
        _ => None,
    });
    let queued = response.header.recv_queue > 0 || response.header.send_queue > 0;
    queued || info.is_some_and(|info| has_not_answered(info))
}

/// `info` is a `struct tcp_info` (linux/tcp.h), of which older kernels have a shorter form. Its fields are in host byte order.
fn has_not_answered(info: &[u8]) -> bool {
    let word = |offset: usize| Some(u32::from_ne_bytes(*info.get(offset..)?.first_chunk()?));
    let (Some(last_data_sent), Some(last_data_recv), Some(last_ack_recv)) = (word(44), word(52), word(56)) else {
        return false;
    };
    // The number of bytes that the server received (tcpi_bytes_received) exists since Linux 4.2. Its lower half is
    // enough here.
    if word(128) == Some(0) {
        // The client's last ACK was the one that completed the handshake.
        return last_ack_recv < SPEAKS_FIRST_WITHIN_MS;
    }
    // The number of data segments that the server sent (tcpi_data_segs_out) exists since Linux 4.6.
    let never_spoke = word(156) == Some(0);
    let spoke_before = last_data_sent > last_data_recv;
    let spoke_at_once = last_data_sent == last_data_recv && last_data_recv < SAME_TIME_MS;
    never_spoke || spoke_before || spoke_at_once
}
