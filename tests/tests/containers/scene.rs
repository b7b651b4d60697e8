//! Runs a container under load.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::container::{Container, Setup};
use reloader_tests::load::{Load, Running};
use reloader_tests::netns;
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8080";
pub(crate) const IDLE: &str = "127.0.0.1:8081";
const BACKEND: &str = "127.0.0.1:9000";
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The program of the tests that gives docker's default capabilities and seccomp profile.
pub(crate) const CONTAINED: &str = env!("CARGO_BIN_EXE_contained");

/// A configuration in which HAProxy keeps the daemon's user, as in an image that runs everything as one user.
pub(crate) fn config() -> Config {
    Config::web(WEB).tcp_proxy("idle", &[IDLE], BACKEND)
}

/// A container, with the calling thread as a client in its network, but in none of its other namespaces.
pub(crate) struct Scene {
    pub(crate) container: Container,
    _backend: Server,
}

impl Scene {
    /// Starts a container and waits until a generation serves.
    #[track_caller]
    pub(crate) fn start(setup: Setup) -> Scene {
        Scene::with_container(|| setup.start())
    }

    /// Starts a container that may end by itself.
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

    /// Starts a load and waits until it has begun.
    pub(crate) fn load(&self) -> Running {
        let load = Load::to([WEB]).start();
        load.until_started(200);
        load
    }
}

/// Panics unless the receipt is proven and exactly `count` traffic listeners have this rung.
#[track_caller]
pub(crate) fn assert_rung(receipt: &Value, rung: &str, count: usize) {
    let listeners = receipt["listeners"].as_array().expect("listeners");
    let traffic: Vec<_> = listeners.iter().filter(|listener| listener["role"] == "traffic").collect();
    let on_rung = traffic.iter().filter(|listener| listener["rung"] == rung).count();
    assert!(receipt["result"] == "proven" && (on_rung, traffic.len()) == (count, count), "{receipt:#}");
}
