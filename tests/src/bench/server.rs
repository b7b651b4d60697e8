//! Starts a HAProxy on 127.0.0.1:8000 and reloads it in one of the ways.

use anyhow::{Result, ensure};

use super::flip::Flip;
use super::front::Front;
use super::way::Way;
use crate::config::Config;
use crate::haproxy::HaproxyBinary;
use crate::master::Master;
use crate::network::command;
use crate::plain::{Method, Plain};
use crate::receipt::listener;
use crate::rig::Rig;

pub(super) const WEB: &str = "127.0.0.1:8000";
const SYN_RULE: &str = "INPUT --protocol tcp --dport 8000 --syn --jump DROP";

/// A server in the calling thread's network namespace. When it is dropped, all its processes are ended.
pub(super) enum Server {
    Plain(Plain),
    SynsDropped(Plain),
    Master { master: Master, _dir: tempfile::TempDir },
    Flip(Flip),
    Front { server: Box<Server>, _front: Front },
    Reloader { rig: Box<Rig>, address: String, rung: &'static str },
}

impl Server {
    pub(super) fn start(way: Way) -> Server {
        let plain = |method| Plain::start(&HaproxyBinary::installed(), method, 1);
        match way {
            Way::KillAndStart => Server::Plain(plain(Method::KillAndStart)),
            Way::NoReusePort => Server::Plain(plain(Method::NoReusePort)),
            Way::SoftStop => Server::Plain(plain(Method::SoftStop)),
            Way::SynsDropped => Server::SynsDropped(plain(Method::SoftStop)),
            Way::PassSockets => Server::Plain(plain(Method::PassSockets)),
            Way::MasterWorker => master(),
            Way::FlipNftables | Way::FlipSkLookup => Server::Flip(Flip::start(way)),
            Way::Front | Way::FrontPassed => front(way),
            Way::Passed | Way::Steered | Way::Overlap | Way::HeldEbpf | Way::HeldQdisc => reloader(way, WEB),
        }
    }

    /// Reloads once. Gives whether the reload was proven by the expected rung.
    ///
    /// # Errors
    /// If the reload failed.
    pub(super) fn reload(&mut self) -> Result<bool> {
        match self {
            Server::Plain(plain) => {
                plain.reload();
                Ok(false)
            }
            Server::SynsDropped(plain) => {
                command("iptables", &format!("--wait --insert {SYN_RULE}"));
                plain.reload();
                command("iptables", &format!("--wait --delete {SYN_RULE}"));
                Ok(false)
            }
            Server::Master { master, .. } => {
                master.reload();
                Ok(false)
            }
            Server::Flip(flip) => flip.reload().map(|()| false),
            Server::Front { server, .. } => server.reload(),
            Server::Reloader { rig, address, rung } => {
                let receipt = rig.reload();
                ensure!(receipt.json.is_object(), "the reload failed: {}{}", receipt.stdout, receipt.stderr);
                let reason = || receipt.at("/reason").as_str().unwrap_or("its receipt gives no reason");
                ensure!(receipt.at("/result") != "failed", "the reload failed: {}", reason());
                let is_proven = receipt.status == 0 && receipt.at("/result") == "proven";
                Ok(is_proven && listener(&receipt, address)["rung"] == *rung)
            }
        }
    }
}

fn master() -> Server {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    Config::web(WEB).stats_socket(&path("stats.sock")).write(&path("haproxy.cfg"));
    let (config, cli, stats) = (path("haproxy.cfg"), path("master.sock"), path("stats.sock"));
    Server::Master { master: Master::start(&HaproxyBinary::installed(), &config, &cli, &stats, &[]), _dir: dir }
}

/// HAProxy on a Unix path, and nginx before it.
fn front(way: Way) -> Server {
    let front = Front::prepare();
    let bind = format!("unix@{} mode 666", front.path().display());
    let server = match way {
        Way::FrontPassed => reloader(way, &bind),
        _ => Server::Plain(Plain::start_at(&HaproxyBinary::installed(), Method::SoftStop, &bind)),
    };
    Server::Front { server: Box::new(server), _front: front.start() }
}

fn reloader(way: Way, bind: &str) -> Server {
    let config = match way.binds_alone() {
        true => Config::web(bind).global("noreuseport"),
        false => Config::web(bind),
    };
    // In a guest a hold may last longer than the default allows.
    let tables = format!("[reload]\nstrategy = \"{}\"\n[hold]\nmax = \"60s\"\n", way.strategy());
    let rig = Box::new(Rig::with(&config).tables(&tables).start());
    let address = bind.split(' ').next().unwrap_or_default().trim_start_matches("unix@").to_owned();
    Server::Reloader { rig, address, rung: way.rung().expect("one of reloader's ways") }
}
