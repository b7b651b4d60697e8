//! Connects to a listener's address as a client on this machine would, and sends nothing.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use futures_util::StreamExt;
use rustix::io::Errno;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::kernel::addresses;
use crate::model::listener::{Address, Endpoint, SocketType};
use crate::process::run_blocking;

/// How many connections are open at once.
const AT_ONCE: usize = 64;

/// How long a connection waits for room in the queue of a unix socket before it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Whether a connection from the daemon says anything about this listener: not about datagrams, nor about another network namespace, nor about a
/// device, which gets no packets from this machine itself.
pub fn is_testable(endpoint: &Endpoint) -> bool {
    endpoint.socket_type == SocketType::Stream && endpoint.is_here() && endpoint.interface.is_none()
}

/// Connects once to each of the endpoints, and waits up to `limit` for each. Returns why it failed, for those where it did, by their position.
///
/// What [`reachability`](super::reachability) judges is not judged here: an address that this host does not have, and a path that only the server
/// sees. Nor is a lack of descriptors of this process a fault of the listener.
pub async fn failures(endpoints: &[Endpoint], limit: Duration) -> Vec<(usize, String)> {
    let absent = absent_addresses(endpoints).await;
    let is_present = |endpoint: &Endpoint| endpoint.inet().is_none_or(|address| !absent.contains(&address.ip()));
    let present = endpoints.iter().enumerate().filter(|(_, endpoint)| is_present(endpoint));
    let tests = present.map(|(position, endpoint)| async move {
        match timeout(limit, connect_when_there_is_room(endpoint)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => is_about_the_listener(endpoint, &error).then(|| (position, error.to_string())),
            Err(_) => Some((position, format!("no answer within {}", humantime::format_duration(limit)))),
        }
    });
    futures_util::stream::iter(tests).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Empty where the kernel does not list its addresses.
async fn absent_addresses(endpoints: &[Endpoint]) -> HashSet<IpAddr> {
    let own = endpoints.iter().filter_map(|endpoint| Some(endpoint.inet()?.ip()));
    let own: HashSet<IpAddr> = own.filter(|address| !address.is_unspecified()).collect();
    run_blocking(move || addresses::absent(&own).unwrap_or_default()).await
}

fn is_about_the_listener(endpoint: &Endpoint, error: &io::Error) -> bool {
    let is_hidden = matches!(endpoint.address, Address::Unix(_)) && error.kind() == io::ErrorKind::NotFound;
    let lacks_descriptors =
        [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    !is_hidden && !lacks_descriptors
}

/// A unix socket whose queue is full refuses with EAGAIN (`unix_stream_connect` of the kernel).
async fn connect_when_there_is_room(endpoint: &Endpoint) -> io::Result<()> {
    loop {
        match connect(endpoint).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(RETRY_INTERVAL).await,
            connected => return connected,
        }
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<()> {
    match &endpoint.address {
        Address::Inet(address) => connect_tcp(*address, endpoint.v6only).await,
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        // tokio takes a path that begins with a zero byte for an abstract name.
        Address::Abstract(name) => {
            let path = [&b"\0"[..], name].concat();
            UnixStream::connect(std::ffi::OsStr::from_bytes(&path)).await.map(drop)
        }
    }
}

async fn connect_tcp(address: SocketAddr, v6only: bool) -> io::Result<()> {
    let (first, second) = destinations(address, v6only);
    match (TcpStream::connect(first).await, second) {
        (Err(error), Some(second)) if has_no_such_address(&error) => TcpStream::connect(second).await.map(drop),
        (connected, _) => connected.map(drop),
    }
}

/// Where a client on this machine connects to, and where if the machine has no IPv6. Pure.
fn destinations(address: SocketAddr, v6only: bool) -> (SocketAddr, Option<SocketAddr>) {
    let at = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (at(Ipv4Addr::LOCALHOST.into()), None),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            (at(Ipv6Addr::LOCALHOST.into()), (!v6only).then(|| at(Ipv4Addr::LOCALHOST.into())))
        }
        _ => (address, None),
    }
}

fn has_no_such_address(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::Unsupported
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn wildcards_are_reached_by_the_loopback_addresses() {
        let destinations = |address: &str, v6only| {
            let (first, second) = destinations(address.parse().unwrap(), v6only);
            (first.to_string(), second.map(|second| second.to_string()))
        };
        assert_eq!(destinations("0.0.0.0:80", false), ("127.0.0.1:80".into(), None));
        assert_eq!(destinations("[::]:80", false), ("[::1]:80".into(), Some("127.0.0.1:80".into())));
        assert_eq!(destinations("[::]:80", true), ("[::1]:80".into(), None));
        assert_eq!(destinations("192.0.2.1:80", false), ("192.0.2.1:80".into(), None));
    }

    #[tokio::test]
    async fn only_what_listens_is_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = directory.path().join("socket");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let endpoints = [
            Address::Inet(open.local_addr().unwrap()),
            Address::Inet(closed),
            Address::Unix(path),
            Address::Unix(directory.path().join("other")),
            Address::Inet("192.0.2.77:80".parse().unwrap()),
            Address::Abstract(b"reloader-test-nothing-has-this-name".to_vec()),
        ];
        let mut failures = failures(&endpoints.map(Endpoint::stream), LIMIT).await;
        failures.sort();
        assert_eq!(failures.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [1, 5], "{failures:?}");
        assert!(failures[0].1.contains("refused"), "{failures:?}");
    }

    #[tokio::test]
    async fn unix_socket_with_a_full_queue_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let full = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let failures = failures(&[Endpoint::stream(Address::Unix(path))], Duration::from_millis(50)).await;
        assert_eq!(failures, [(0, "no answer within 50ms".to_owned())]);
    }

    /// The kernel drops the SYN, because nothing accepts and the queue is full.
    #[tokio::test]
    async fn listener_without_an_answer_is_given_up() {
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = full.local_addr().unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _queued = std::net::TcpStream::connect(address).unwrap();
        let failures = failures(&[Endpoint::stream(Address::Inet(address))], Duration::from_millis(50)).await;
        assert_eq!(failures, [(0, "no answer within 50ms".to_owned())]);
    }
}
