//! Makes network namespaces and devices, and lists what is attached in their packet paths.

use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, unshare};

use crate::netns;

/// A network namespace that is removed with this value. Needs root.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Creates an empty namespace with `lo` up.
    pub fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root to create network namespaces");
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self { file: thread.join().unwrap() }
    }

    /// Runs `work` on a thread in this namespace. A panic continues in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.file, work)
    }

    /// Moves a device of the calling thread's namespace here.
    pub fn take_device(&self, device: &str) {
        ip(&format!("link set {device} netns /proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()));
    }
}

/// Two namespaces with the connected devices `left` and `right`, which are up.
pub fn veth_pair() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new(), Namespace::new());
    left.run(|| {
        ip("link add left type veth peer name right");
        right.take_device("right");
        ip("link set left up");
    });
    right.run(|| ip("link set right up"));
    (left, right)
}

/// A pair of namespaces as [`veth_pair`] makes it, with addresses: `left` has host 1, and `right` has host 2.
pub fn addressed_pair() -> (Namespace, Namespace) {
    let (left, right) = veth_pair();
    left.run(|| add_addresses("left", 1));
    right.run(|| add_addresses("right", 2));
    (left, right)
}

/// Gives a device an address of each family.
pub fn add_addresses(device: &str, host: u8) {
    ip(&format!("addr add 10.0.0.{host}/24 dev {device}"));
    ip(&format!("addr add fd00::{host}/64 dev {device} nodad"));
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    command("ip", arguments);
}

/// Adds a device if this kernel has its kind. Distributions' kernels have all kinds, a small virtual machine's may not.
pub fn try_add_device(device: &str) -> bool {
    let output = Command::new("ip").args(["link", "add"]).args(device.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("Unknown device type"), "{device}: {error}");
    output.status.success()
}

/// Runs `tc` in the calling thread's namespace.
pub fn tc(arguments: &str) {
    command("tc", arguments);
}

/// Runs a command and gives its output. Panics if it fails.
pub fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("running {program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The number of packets that the action of the only filter in this place has seen: `dev right ingress`.
pub fn packets_seen_by_filter(place: &str) -> u64 {
    let text = command("tc", &format!("-s filter show {place}"));
    let sent = text.lines().find_map(|line| line.trim().strip_prefix("Sent ")).unwrap_or_else(|| panic!("{text}"));
    sent.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// Accepts connections on the address and closes them, until the test ends.
pub fn listen(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

/// Opens that many connections one after the other, each until the server has accepted and closed it. A queue that
/// overflows would make a client send its SYN again, and a correct count would then not be the one that the test
/// expects.
pub fn connect(address: SocketAddr, connections: usize) {
    for _ in 0..connections {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let mut stream = stream.unwrap_or_else(|error| panic!("{address}: {error}"));
        let _ = stream.read(&mut [0]);
    }
}

/// Everything that is attached in the packet path of the namespace, according to tc and the kernel's list of TCX
/// programs.
pub fn packet_path() -> String {
    let mut path = command("tc", "qdisc show");
    for device in devices() {
        for way in ["ingress", "egress"] {
            path += &command("tc", &format!("filter show dev {device} {way}"));
        }
        path += &tcx_programs(&device);
    }
    path
}

fn devices() -> Vec<String> {
    let links = command("ip", "-oneline link show");
    // "2: eth0@if3: <…>"
    let name = |link: &str| Some(link.split(": ").nth(1)?.split('@').next()?.to_owned());
    links.lines().filter_map(name).collect()
}

fn tcx_programs(device: &str) -> String {
    let mut programs = String::new();
    for way in [TcAttachType::Ingress, TcAttachType::Egress] {
        // A kernel without TCX has none.
        let Ok((_, found)) = SchedClassifier::query_tcx(device, way) else { continue };
        for program in found {
            programs += &format!("tcx {device} {way:?} {:?}\n", program.name_as_str());
        }
    }
    programs
}
