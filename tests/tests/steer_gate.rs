//! Tests the steering gate by itself, on plain listeners. Each test needs root, for a network namespace of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::programs::SkReuseport;
use reloader::gate::steer::{Counts, Group, Steer, SteerError};
use reloader_tests::footprint::Footprint;
use reloader_tests::guest::{self, Feature};
use reloader_tests::limits::keep_only;
use reloader_tests::netns;
use reloader_tests::packet::{ACK, FIN, RST, SYN, segment};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;
use socket2::{Domain, Protocol, Socket, Type};

const LEASE: Duration = Duration::from_secs(60);

/// A listener of a reuseport group.
fn member(address: &str, v6only: bool) -> TcpListener {
    bind(address, v6only, true)
}

fn bind(address: &str, v6only: bool, reuse_port: bool) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_port(reuse_port).unwrap();
    socket.set_reuse_address(true).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(v6only).unwrap();
    }
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    socket.into()
}

fn duplicate(listener: &TcpListener) -> Arc<OwnedFd> {
    Arc::new(listener.as_fd().try_clone_to_owned().unwrap())
}

fn group<'a>(address: &str, v6only: bool, to: &[&TcpListener], from: &[&'a TcpListener]) -> Group<'a> {
    Group {
        address: address.parse().unwrap(),
        v6only,
        interface: 0,
        to: to.iter().map(|listener| duplicate(listener)).collect(),
        from: from.iter().map(|&listener| listener.as_fd()).collect(),
    }
}

/// Accepts all that is queued, and counts it for each listener.
fn accepted(listeners: &[&TcpListener]) -> Vec<usize> {
    let all = |listener: &&TcpListener| {
        listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    };
    listeners.iter().map(all).collect()
}

fn connect(address: &str, times: usize) -> Vec<TcpStream> {
    (0..times).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Runs a check for both programs and each kind of listener: with the bound address, `v6only`, and the address that clients use.
fn each_kind(check: impl Fn(&mut Steer, &str, bool, &str)) {
    netns::enter();
    for load in [Steer::load, Steer::load_selecting] {
        let mut steer = load().unwrap();
        for (bound, v6only, reached) in [
            ("127.0.0.1:8000", false, "127.0.0.1:8000"),
            ("0.0.0.0:8000", false, "127.0.0.1:8000"),
            ("[::1]:8000", true, "[::1]:8000"),
            ("[::]:8000", true, "[::1]:8000"),
            ("[::]:8000", false, "[::1]:8000"),
            ("[::]:8000", false, "127.0.0.1:8000"),
        ] {
            println!("{bound} (v6only: {v6only}) reached by {reached}");
            check(&mut steer, bound, v6only, reached);
            steer.end(&[]).unwrap();
        }
    }
}

#[test]
fn new_connections_go_to_the_new_sockets_and_are_spread_over_them() {
    each_kind(|steer, address, v6only, reached| {
        let [old, one, two] = [0, 1, 2].map(|_| member(address, v6only));
        let left = steer.left().unwrap();
        let place = steer.add(&group(address, v6only, &[&one, &two], &[&old])).unwrap();
        steer.renew(LEASE).unwrap();
        let _clients = connect(reached, 100);
        let per_listener = accepted(&[&old, &one, &two]);
        assert_eq!((per_listener[0], per_listener[1] + per_listener[2]), (0, 100));
        assert!(per_listener[1] > 10 && per_listener[2] > 10, "{per_listener:?}");
        assert_eq!(steer.counts(place).unwrap(), Counts { steered: 100, migrated: 0 });
        assert_eq!(steer.left().unwrap(), left);
        steer.end(&[]).unwrap();
        let _clients = connect(reached, 100);
        assert!(accepted(&[&old])[0] > 10, "the kernel does not choose again");
    });
}

#[test]
fn queued_connections_migrate_when_their_listener_closes() {
    netns::enter();
    if !Steer::load().unwrap().migrates() {
        return guest::skip(Feature::ReusePortMigration, "this kernel takes the other program");
    }
    for (address, v6only, reached) in [
        ("127.0.0.1:8000", false, "127.0.0.1:8000"),
        ("[::]:8000", false, "127.0.0.1:8000"),
        ("[::1]:8000", true, "[::1]:8000"),
    ] {
        let mut steer = Steer::load().unwrap();
        assert!(steer.migrates());
        let old = member(address, v6only);
        let mut clients = connect(reached, 10);
        let new = member(address, v6only);
        let place = steer.add(&group(address, v6only, &[&new], &[&old])).unwrap();
        steer.renew(LEASE).unwrap();
        drop(old);
        assert_eq!(steer.counts(place).unwrap(), Counts { steered: 0, migrated: 10 });
        for client in &mut clients {
            client.write_all(b"?").unwrap();
            let (mut server, _) = new.accept().unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
    }
}

/// Without a lease, the program of a dead daemon would go on choosing sockets.
#[test]
fn expired_lease_leaves_the_choice_to_the_kernel() {
    each_kind(|steer, address, v6only, reached| {
        let [old, new] = [0, 1].map(|_| member(address, v6only));
        let left = steer.left().unwrap();
        steer.add(&group(address, v6only, &[&new], &[&old])).unwrap();
        steer.renew(LEASE).unwrap();
        steer.renew(Duration::ZERO).unwrap();
        let _clients = connect(reached, 100);
        let per_listener = accepted(&[&old, &new]);
        assert!(per_listener[0] > 10 && per_listener[1] > 10, "{per_listener:?}");
        assert_eq!(steer.left().unwrap().connections - left.connections, 100);
    });
}

/// The kernel asks the selecting program about each segment that belongs to no connection.
#[test]
fn only_segments_that_begin_a_connection_count_as_left_to_the_kernel() {
    netns::enter();
    let mut steer = Steer::load_selecting().unwrap();
    let [old, new] = [0, 1].map(|_| member("127.0.0.1:8000", false));
    steer.add(&group("127.0.0.1:8000", false, &[&new], &[&old])).unwrap();
    steer.renew(LEASE).unwrap();
    let left = |steer: &mut Steer| {
        let left = steer.left().unwrap();
        (left.connections, left.answers)
    };
    for flags in [RST, RST | ACK, FIN, SYN | ACK, SYN | FIN] {
        send_segment(flags);
    }
    assert_eq!(left(&mut steer), (0, 0));
    for flags in [ACK, FIN | ACK] {
        send_segment(flags);
    }
    assert_eq!(left(&mut steer), (0, 2));
    assert_eq!(accepted(&[&old, &new]), [0, 0]);

    // With SYN cookies the kernel does not know a client that answers, so the connection goes to any socket of the group.
    std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
    let _clients = connect("127.0.0.1:8000", 20);
    let per_listener = accepted(&[&old, &new]);
    assert!(per_listener[0] > 0 && per_listener[0] + per_listener[1] == 20, "{per_listener:?}");
    assert_eq!(left(&mut steer), (0, 22));
}

/// Sends a segment from a port without a socket to the group of the test above. Over `lo` it has been processed when this returns.
fn send_segment(flags: u8) {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let [from, to] = ["127.0.0.1:9", "127.0.0.1:8000"].map(|address| address.parse::<SocketAddrV4>().unwrap());
    raw.send_to(&segment(from, to, flags), &SocketAddr::from(to).into()).unwrap();
}

#[test]
fn groups_are_steered_independently() {
    netns::enter();
    for load in [Steer::load, Steer::load_selecting] {
        let mut steer = load().unwrap();
        let addresses = ["127.0.0.1:8000", "127.0.0.1:8001", "0.0.0.0:8002", "[::]:8003"];
        let pairs: Vec<_> = addresses.iter().map(|address| [member(address, false), member(address, false)]).collect();
        for (address, [old, new]) in addresses.iter().zip(&pairs) {
            steer.add(&group(address, false, &[new], &[old])).unwrap();
        }
        steer.renew(LEASE).unwrap();
        for (place, [old, new]) in pairs.iter().enumerate() {
            let _clients = connect(&format!("127.0.0.1:{}", 8000 + place), 10 + place);
            assert_eq!(accepted(&[old, new]), [0, 10 + place]);
            assert_eq!(steer.counts(place).unwrap().steered, 10 + place as u64);
        }
    }
}

#[test]
fn sockets_without_a_common_group_are_refused() {
    netns::enter();
    let mut steer = Steer::load().unwrap();
    let (one, alone) = (member("127.0.0.1:8000", false), bind("127.0.0.1:8001", false, false));
    let error = steer.add(&group("127.0.0.1:8000", false, &[&one], &[&alone])).unwrap_err();
    assert!(matches!(error, SteerError::Apart { .. }), "{error}");
    let error = steer.add(&group("127.0.0.1:8001", false, &[&alone], &[])).unwrap_err();
    assert!(matches!(error, SteerError::Refused { .. }), "{error}");
    let other = member("127.0.0.1:8000", false);
    steer.add(&group("127.0.0.1:8000", false, &[&one], &[&other])).unwrap();
    let error = steer.add(&group("127.0.0.1:8000", false, &[&one], &[&other])).unwrap_err();
    assert!(matches!(error, SteerError::Ambiguous { .. }), "{error}");
}

/// Through a socket that no longer listens the kernel detaches no program, and reports that there is none.
#[test]
fn program_is_detached_through_an_old_socket_after_the_new_ones_stopped() {
    netns::enter();
    let [old, new] = [0, 1].map(|_| member("127.0.0.1:8000", false));
    let mut steer = Steer::load().unwrap();
    steer.add(&group("127.0.0.1:8000", false, &[&new], &[&old])).unwrap();
    rustix::net::shutdown(&new, rustix::net::Shutdown::Both).unwrap();
    steer.end(&[duplicate(&old)]).unwrap();
    SkReuseport::detach(&old).expect_err("the program is still attached to the group");
}

#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn dropped_gate_leaves_nothing_behind() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let before = Footprint::take_with_bpf(dir.path());
    let [old, new] = [0, 1].map(|_| member("127.0.0.1:8000", false));
    for _ in 0..3 {
        let mut steer = Steer::load().unwrap();
        steer.add(&group("127.0.0.1:8000", false, &[&new], &[&old])).unwrap();
        steer.renew(LEASE).unwrap();
        drop(steer);
    }
    drop((old, new));
    before.assert_unchanged();
}

/// The unit file grants these two, and not CAP_PERFMON.
#[test]
fn two_capabilities_load_the_same_program_as_all() {
    netns::enter();
    // Below Linux 5.11 BPF memory counts against the limit. Without CAP_SYS_RESOURCE this is refused; where the limit matters, the test
    // fails below.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let migrates = Steer::load().unwrap().migrates();
    keep_only(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
    assert_eq!(Steer::load().unwrap().migrates(), migrates);
}
