//! A container under load.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::container::{Container, Setup};
use reloader_tests::load::{Load, Running};
use reloader_tests::netns;
use reloader_tests::process::{Process, with_arguments};
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8080";
pub(crate) const IDLE: &str = "127.0.0.1:8081";
const BACKEND: &str = "127.0.0.1:9000";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Docker's default capabilities and seccomp profile, by a program of the tests.
pub(crate) const CONTAINED: &str = env!("CARGO_BIN_EXE_contained");

/// HAProxy keeps the daemon's user, as it does in an image that runs everything as one.
pub(crate) fn config() -> Config {
    Config::web(WEB).tcp_proxy("idle", &[IDLE], BACKEND)
}

/// A container, with a client's thread in its network and nowhere else in it.
pub(crate) struct Scene {
    pub(crate) container: Container,
    _backend: Server,
}

impl Scene {
    /// One in which something serves.
    #[track_caller]
    pub(crate) fn start(setup: Setup) -> Scene {
        Scene::with_container(|| setup.start())
    }

    /// One that may end by itself.
    #[track_caller]
    pub(crate) fn try_start(setup: Setup) -> Scene {
        Scene::with_container(|| setup.try_start())
    }

    fn with_container(start: impl FnOnce() -> Container) -> Scene {
        netns::enter();
        let container = start();
        container.enter_network();
        Scene { container, _backend: Server::start(BACKEND, Reaction::Reply) }
    }

    /// A load that has begun.
    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).start();
        load.until_started(200);
        load
    }
}

/// The wrapper that was told to do nothing.
pub(crate) fn hanging(container: &Container) -> Option<Process> {
    with_arguments(&["hanging", &container.path("haproxy.cfg").display().to_string()]).first().copied()
}

/// Panics unless it is proven, and just `count` traffic listeners have this rung.
#[track_caller]
pub(crate) fn assert_rung(receipt: &Value, rung: &str, count: usize) {
    let listeners = receipt["listeners"].as_array().expect("listeners");
    let traffic: Vec<_> = listeners.iter().filter(|listener| listener["role"] == "traffic").collect();
    let on_rung = traffic.iter().filter(|listener| listener["rung"] == rung).count();
    assert!(receipt["result"] == "proven" && (on_rung, traffic.len()) == (count, count), "{receipt:#}");
}
