//! Two HAProxy instances beside each other, between which new connections are switched in one step. Reloader has no such way: it keeps no queue,
//! and clients are refused when the current instance is killed.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData, SockMap};
use aya::programs::SkLookup;
use nix::sys::signal::Signal;
use reloader::kernel::sock_diag;
use reloader::model::listener::Address;
use reloader::process::{Handle, sockets_of};

use super::server::WEB;
use super::way::Way;
use crate::config::Config;
use crate::haproxy::{Haproxy, HaproxyBinary};
use crate::poll::until;
use crate::process::Process;

/// The benchmark's own program (`reloader-ebpf/src/flip.rs`).
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bench/flip.o"));
/// Where the two instances listen.
const INSTANCES: [&str; 2] = ["127.0.0.1:8001", "127.0.0.1:8002"];
/// The table of the guide (docs/guide/flip.md). Clients of this machine pass the hook `output`, others `prerouting`.
pub const NFTABLES: &str = "\
table inet flip {
    map current {
        type inet_service : inet_service
        elements = { 8000 : 8001 }
    }
    chain prerouting {
        type nat hook prerouting priority -100
        tcp dport 8000 tcp flags & (syn|ack) == syn redirect to :tcp dport map @current
    }
    chain output {
        type nat hook output priority -100
        tcp dport 8000 tcp flags & (syn|ack) == syn redirect to :tcp dport map @current
    }
}
";
const EMPTY: Duration = Duration::from_secs(10);

/// A server of two instances, of which one is current.
pub struct Flip {
    binary: HaproxyBinary,
    dir: tempfile::TempDir,
    switch: Switch,
    current: usize,
    serving: Haproxy,
    draining: Vec<Haproxy>,
}

/// What sends new connections to the current instance.
enum Switch {
    Nftables,
    SkLookup(Box<Lookup>),
}

struct Lookup {
    /// Its link is closed with it.
    _program: Ebpf,
    current: SockMap<MapData>,
}

impl Flip {
    /// Starts the first instance, and what sends connections to it.
    pub fn start(way: Way) -> Flip {
        let binary = HaproxyBinary::installed();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let serving = binary.daemonize(&config(&dir, 0), &[]).unwrap_or_else(|error| panic!("{binary}: {error:#}"));
        let mut switch = match way {
            Way::FlipNftables => Switch::nftables(),
            _ => Switch::sk_lookup().unwrap_or_else(|error| panic!("sk_lookup: {error:#}")),
        };
        switch.point_at(0, &serving).unwrap_or_else(|error| panic!("{error:#}"));
        Flip { binary, dir, switch, current: 0, serving, draining: Vec::new() }
    }

    /// The current instance.
    pub fn process(&self) -> Process {
        self.serving.process
    }

    /// Starts the other instance, switches, and ends the one that was current when its queue is empty.
    ///
    /// # Errors
    /// If an instance does not start, or the switch does not work.
    pub fn reload(&mut self) -> Result<()> {
        let next = 1 - self.current;
        let new = self.binary.daemonize(&config(&self.dir, next), &[])?;
        self.switch.point_at(next, &new)?;
        let old = std::mem::replace(&mut self.serving, new);
        let left = std::mem::replace(&mut self.current, next);
        until(EMPTY, "the old instance's queue to be empty", || is_empty(left));
        old.process.signal(Signal::SIGUSR1);
        until(EMPTY, "the old instance to close its port", || listener(left, &old).is_none());
        self.draining.push(old);
        self.draining.retain(|haproxy| haproxy.process.is_alive());
        Ok(())
    }

    /// Takes the switch away from in front of another server on the port, and ends the current instance when its queue is empty.
    ///
    /// # Errors
    /// If the switch cannot be taken away.
    pub fn leave(mut self) -> Result<()> {
        match &mut self.switch {
            Switch::Nftables => nft("delete element inet flip current { 8000 }\n"),
            Switch::SkLookup(lookup) => lookup.current.clear_index(&0)?,
        }
        until(EMPTY, "the instance's queue to be empty", || is_empty(self.current));
        self.serving.process.signal(Signal::SIGUSR1);
        self.serving.process.until_gone(EMPTY);
        Ok(())
    }
}

fn config(dir: &tempfile::TempDir, instance: usize) -> PathBuf {
    let file = dir.path().join(format!("haproxy-{instance}.cfg"));
    Config::web(INSTANCES[instance]).write(&file);
    file
}

/// Runs these commands as one transaction.
fn nft(commands: &str) {
    let mut nft = Command::new("nft");
    let mut running = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("package nftables");
    running.stdin.take().expect("its input").write_all(commands.as_bytes()).expect("writing to nft");
    let status = running.wait().expect("waiting for nft");
    assert!(status.success(), "nft: {status}: {commands}");
}

/// The inode of the socket on which this process listens as that instance.
fn listener(instance: usize, haproxy: &Haproxy) -> Option<u64> {
    let address = Address::Inet(address(instance));
    let owned = sockets_of(&[haproxy.process.pid as u32]);
    let machine = sock_diag::tcp_listeners().expect("sock_diag");
    machine.iter().find(|found| found.address == address && owned.contains_key(&found.inode)).map(|found| found.inode)
}

/// Whether no connection and no handshake waits there. The nftables map gives a handshake the instance's port, the lookup leaves it the port that
/// the client means; then the handshakes with the other instance are among them, and last no longer than a moment each.
fn is_empty(instance: usize) -> bool {
    let own = address(instance);
    let machine = sock_diag::tcp_listeners().expect("sock_diag");
    let here = machine.iter().filter(|found| found.address == Address::Inet(own));
    let waits = |port: u16| !sock_diag::half_open(port).expect("sock_diag").is_empty();
    here.map(|found| found.queued).sum::<u32>() == 0 && ![own.port(), web_port()].into_iter().any(waits)
}

fn address(instance: usize) -> SocketAddr {
    INSTANCES[instance].parse().expect("an address")
}

fn web_port() -> u16 {
    WEB.parse::<SocketAddr>().expect("an address").port()
}

impl Switch {
    fn nftables() -> Switch {
        nft(NFTABLES);
        Switch::Nftables
    }

    fn sk_lookup() -> Result<Switch> {
        let mut program = Ebpf::load(OBJECT)?;
        let mut port: Array<_, u32> = program.map_mut("PORT").context("PORT")?.try_into()?;
        port.set(0, u32::from(web_port()), 0)?;
        let lookup: &mut SkLookup = program.program_mut("bench_flip").context("bench_flip")?.try_into()?;
        lookup.load()?;
        lookup.attach(File::open("/proc/thread-self/ns/net")?)?;
        let current = SockMap::try_from(program.take_map("CURRENT").context("CURRENT")?)?;
        Ok(Switch::SkLookup(Box::new(Lookup { _program: program, current })))
    }

    /// Sends new connections to this instance, in one step.
    fn point_at(&mut self, instance: usize, haproxy: &Haproxy) -> Result<()> {
        match self {
            Switch::Nftables => {
                let (port, to) = (web_port(), address(instance).port());
                nft(&format!("flush map inet flip current\nadd element inet flip current {{ {port} : {to} }}\n"));
            }
            Switch::SkLookup(lookup) => {
                let inode = listener(instance, haproxy).context("the instance does not listen")?;
                let owner = sockets_of(&[haproxy.process.pid as u32])[&inode];
                let socket = Handle::duplicate(owner, inode)?;
                lookup.current.set(0, &socket, 0)?;
            }
        }
        ensure!(haproxy.process.is_alive(), "the instance has ended");
        Ok(())
    }
}
