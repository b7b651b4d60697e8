//! Makes a hold in one namespace with its clients in another, connected by veth.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::footprint::Footprint;
use reloader_tests::guest::{self, Gate};
use reloader_tests::network::{Namespace, ip, packet_path, veth_pair};
use reloader_tests::packet::{SYN, segment};
use reloader_tests::poll::until;
use reloader_tests::process::{Process, guards};
use reloader_tests::rig::{Answer, Pending};
use reloader_tests::service::{Kind, Service};
use reloader_tests::waiting::{Client, listener, raise_backlog_limits, retransmits, start_clients};
use socket2::{Domain, Protocol, Socket, Type};

use reloader_tests::hold_rig::HoldRig;

pub(crate) const ADDRESS: &str = "10.0.0.2:8080";
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Two connected namespaces. Everything but the clients runs in `server`.
pub(crate) struct Scene {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) hold_rig: HoldRig,
    before: Footprint,
    path_before: String,
    /// A socket in the clients' namespace for packets with their own IP header.
    raw: Socket,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with("")
    }

    /// A scene with further tables in reloader.toml.
    pub(crate) fn with(tables: &str) -> Scene {
        let (client, server) = veth_pair();
        client.run(|| address("left", 1));
        let (hold_rig, before, path_before) = server.run(|| {
            address("right", 2);
            raise_backlog_limits();
            let hold_rig = HoldRig::with(tables);
            let before = Footprint::take(hold_rig.rig.dir());
            (hold_rig, before, packet_path())
        });
        let raw = client.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap());
        Scene { client, server, hold_rig, before, path_before, raw }
    }

    /// Starts a hold and waits until it is armed. Its command does nothing and waits until [`Held::go_on`].
    pub(crate) fn hold(&self, args: &[&str]) -> Held<'_> {
        self.hold_on(ADDRESS, args)
    }

    pub(crate) fn hold_on(&self, listen: &str, args: &[&str]) -> Held<'_> {
        let name = listen.replace([':', '[', ']'], "-");
        let path = |what: &str| self.hold_rig.rig.path(&format!("{what}{name}"));
        let (runs, go) = (path("runs"), path("go"));
        let _ = (std::fs::remove_file(&runs), std::fs::remove_file(&go));
        let script = format!(
            "echo $$ >{0}.new; mv {0}.new {0}; until [ -e {1} ]; do sleep 0.01; done; exit 3",
            runs.display(),
            go.display()
        );
        let max: &[&str] = if args.contains(&"--max") { &[] } else { &["--max", "1h"] };
        let all = [&["--json", "--listen", listen], max, backend(), args].concat();
        let pending = self.server.run(|| self.hold_rig.spawn(&all, ["sh", "-c", &script]));
        // The command runs once the hold is armed and drained.
        until(LONG, "the hold", || runs.exists());
        let command = std::fs::read_to_string(&runs).unwrap().trim().parse().unwrap();
        let holder = Process::with_pid(pending.pid() as i32).expect("the holder runs");
        Held { scene: self, pending, holder, command: Process::with_pid(command).expect("the command runs"), go }
    }

    /// Panics unless the hold has left nothing in the packet path, no process, and no record in the registry.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        self.server.run(|| {
            self.before.assert_unchanged();
            until(LONG, "an empty packet path", || packet_path() == self.path_before);
        });
        until(LONG, "the record to be removed", || self.hold_rig.records().is_empty());
    }

    /// Panics if the packet path has anything that was not in it before.
    #[track_caller]
    pub(crate) fn assert_path_clean(&self) {
        assert_eq!(self.server.run(packet_path), self.path_before);
    }

    /// Expects at the end the packet path as it is now.
    pub(crate) fn take_path_as_it_is(&mut self) {
        self.path_before = self.server.run(packet_path);
    }

    pub(crate) fn guards(&self) -> Vec<Process> {
        self.server.run(guards)
    }

    /// Starts a perl server.
    pub(crate) fn start_service(&self, addresses: &[&str]) -> Service {
        self.server.run(|| Service::started(Kind::Perl, self.hold_rig.rig.dir(), addresses))
    }

    /// Stops a server, in the namespace in which it listens.
    pub(crate) fn stop_service(&self, service: Service) {
        self.server.run(|| drop(service));
    }

    /// Runs a command of reloader on the server.
    pub(crate) fn run_reloader(&self, args: &[&str]) -> Answer {
        self.server.run(|| self.hold_rig.rig.run(args))
    }

    pub(crate) fn listener(&self) -> TcpListener {
        self.server.run(|| listener(ADDRESS))
    }

    /// Starts clients and waits until their SYNs have arrived.
    pub(crate) fn clients(&self, count: usize) -> Vec<Client> {
        reloader_tests::limits::raise_open_files();
        let before = self.server.run(received);
        let clients = self.client.run(|| start_clients(ADDRESS.parse().unwrap(), count));
        until(LONG, "the SYNs to arrive", || self.server.run(received) >= before + count as u64);
        clients
    }

    /// The number of segments that the clients have sent again.
    pub(crate) fn retransmits(&self) -> u64 {
        self.client.run(retransmits)
    }
}

/// An active hold.
pub(crate) struct Held<'a> {
    scene: &'a Scene,
    pub(crate) pending: Pending,
    pub(crate) holder: Process,
    pub(crate) command: Process,
    go: PathBuf,
}

impl Held<'_> {
    pub(crate) fn guard(&self) -> Process {
        let guards = self.scene.guards();
        assert_eq!(guards.len(), 1, "{guards:?}");
        guards[0]
    }

    /// Lets the command end with status 3. That ends the hold, because the old listener is the only one.
    pub(crate) fn go_on(self) -> Answer {
        File::create(&self.go).unwrap();
        self.pending.wait()
    }

    /// Kills the holder, and ends its command too.
    pub(crate) fn kill(self) -> Answer {
        self.holder.signal(Signal::SIGKILL);
        let answer = self.pending.wait();
        File::create(&self.go).unwrap();
        self.command.until_gone(LONG);
        answer
    }
}

/// The arguments that select the gate of this row of the kernel matrix.
pub(crate) fn backend() -> &'static [&'static str] {
    match guest::gate() {
        Some(Gate::Qdisc) => &["--backend", "qdisc"],
        _ => &[],
    }
}

fn address(device: &str, host: u8) {
    ip(&format!("addr add 10.0.0.{host}/24 dev {device}"));
}

/// The number of packets that the device has received.
fn received() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("right:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends a SYN from an address that no host has.
pub(crate) fn send_syn(scene: &Scene, from: Ipv4Addr, port: u16) {
    let to: SocketAddrV4 = ADDRESS.parse().unwrap();
    let packet = segment(SocketAddrV4::new(from, port), to, SYN);
    scene.raw.send_to(&packet, &SocketAddr::from(to).into()).unwrap();
}
