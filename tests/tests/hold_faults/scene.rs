//! A hold in one namespace with its clients in another, connected by veth.

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
use reloader_tests::waiting::{Client, listener, raise_backlog_limits, retransmits, start_clients};
use socket2::{Domain, Protocol, Socket, Type};

use reloader_tests::hold_rig::HoldRig;

pub(crate) const ADDRESS: &str = "10.0.0.2:8080";
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Two connected namespaces; everything but the clients happens on `server`.
pub(crate) struct Scene {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) hold_rig: HoldRig,
    before: Footprint,
    path_before: String,
    /// In the clients' namespace, for packets with a header of our own.
    raw: Socket,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with("")
    }

    /// With further tables in reloader.toml.
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

    /// A hold that is armed, around a command that touches nothing: it waits until it is told to end, see [`Held::go_on`].
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
        // The command is run when the hold is armed and drained.
        until(LONG, "the hold", || runs.exists());
        let command = std::fs::read_to_string(&runs).unwrap().trim().parse().unwrap();
        let holder = Process::with_pid(pending.pid() as i32).expect("the holder runs");
        Held { scene: self, pending, holder, command: Process::with_pid(command).expect("the command runs"), go }
    }

    /// Nothing is left in the packet path, of processes, and on record.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        self.server.run(|| {
            self.before.assert_unchanged();
            until(LONG, "an empty packet path", || packet_path() == self.path_before);
        });
        until(LONG, "the record to be removed", || self.hold_rig.records().is_empty());
    }

    /// Nothing is in the packet path that was not there before.
    #[track_caller]
    pub(crate) fn assert_path_clean(&self) {
        assert_eq!(self.server.run(packet_path), self.path_before);
    }

    /// What stands in the packet path now is to be there afterwards.
    pub(crate) fn take_path_as_it_is(&mut self) {
        self.path_before = self.server.run(packet_path);
    }

    pub(crate) fn guards(&self) -> Vec<Process> {
        self.server.run(guards)
    }

    pub(crate) fn listener(&self) -> TcpListener {
        self.server.run(|| listener(ADDRESS))
    }

    /// Clients whose SYNs have arrived.
    pub(crate) fn clients(&self, count: usize) -> Vec<Client> {
        reloader_tests::limits::raise_open_files();
        let before = self.server.run(received);
        let clients = self.client.run(|| start_clients(ADDRESS.parse().unwrap(), count));
        until(LONG, "the SYNs to arrive", || self.server.run(received) >= before + count as u64);
        clients
    }

    /// Segments that the clients have sent again.
    pub(crate) fn retransmits(&self) -> u64 {
        self.client.run(retransmits)
    }
}

/// A hold in force.
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

    /// The command ends with status 3, which ends the hold where the old listener is the only one.
    pub(crate) fn go_on(self) -> Answer {
        File::create(&self.go).unwrap();
        self.pending.wait()
    }

    /// The holder is killed; its command is ended too.
    pub(crate) fn kill(self) -> Answer {
        self.holder.signal(Signal::SIGKILL);
        let answer = self.pending.wait();
        File::create(&self.go).unwrap();
        self.command.until_gone(LONG);
        answer
    }
}

/// The arguments that ask for the gate of this row of the kernel matrix.
pub(crate) fn backend() -> &'static [&'static str] {
    match guest::gate() {
        Some(Gate::Qdisc) => &["--backend", "qdisc"],
        _ => &[],
    }
}

fn address(device: &str, host: u8) {
    ip(&format!("addr add 10.0.0.{host}/24 dev {device}"));
}

/// Packets that came in by the device.
fn received() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("right:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A SYN from an address that is nobody's.
pub(crate) fn send_syn(scene: &Scene, from: Ipv4Addr, port: u16) {
    let to: SocketAddrV4 = ADDRESS.parse().unwrap();
    let packet = segment(SocketAddrV4::new(from, port), to, SYN);
    scene.raw.send_to(&packet, &SocketAddr::from(to).into()).unwrap();
}
