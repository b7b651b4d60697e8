//! Builds and starts a load.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, Plan};
use super::error::LoadError;
use super::exchange::{ConnectionOptions, Exchange};
use super::outcome::Sink;
use super::running::{Progress, RunningLoad};
use super::sessions::LongSessions;
use super::target::Target;
use super::tls::Tls;

const DEFAULT_RATE: u32 = 1000;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// The settings of a load that has not been started.
#[derive(Clone)]
pub struct Load {
    targets: Vec<Target>,
    rate: u32,
    limit: u64,
    timeout: Duration,
    exchange: Exchange,
    tls: Option<Tls>,
    proxy_protocol: bool,
    pool: Option<usize>,
}

impl Load {
    /// Connects to each target in turn.
    pub fn new(targets: Vec<Target>) -> Load {
        Load {
            targets,
            rate: DEFAULT_RATE,
            limit: u64::MAX,
            timeout: DEFAULT_TIMEOUT,
            exchange: Exchange::Http(DEFAULT_REQUEST.into()),
            tls: None,
            proxy_protocol: false,
            pool: None,
        }
    }

    /// Sets the number of new connections per second, or of requests per second where connections are kept. The default is
    /// 1,000.
    pub fn rate(mut self, per_second: u32) -> Load {
        self.rate = per_second;
        self
    }

    /// Ends the load after this many connections, or requests where connections are kept. Without a limit the load goes on
    /// until [`RunningLoad::stop`].
    pub fn connections(mut self, limit: u64) -> Load {
        self.limit = limit;
        self
    }

    /// Sets how long a connection or request may take from its start. The default is 10 s. A request that waits for a kept
    /// connection may wait this long for one, and then has the same time again on it.
    pub fn timeout(mut self, timeout: Duration) -> Load {
        self.timeout = timeout;
        self
    }

    /// Sets what is done on a connection. The default is `GET / HTTP/1.0`.
    pub fn exchange(mut self, exchange: Exchange) -> Load {
        self.exchange = exchange;
        self
    }

    /// Makes each connection a TLS connection.
    pub fn tls(mut self, tls: Tls) -> Load {
        self.tls = Some(tls);
        self
    }

    /// Begins each connection with a PROXY header of version 1 that says its own addresses (HAProxy's `accept-proxy`).
    pub fn proxy_protocol(mut self) -> Load {
        self.proxy_protocol = true;
        self
    }

    /// Keeps at most this many connections open and sends the requests on them in turn.
    pub fn keep_alive(mut self, connections: usize) -> Load {
        self.pool = Some(connections);
        self
    }

    /// Makes `count` long sessions instead, with the first target and the exchange, which has to be an [`Exchange::Session`]. They may take
    /// the timeout to begin, and as long to end.
    ///
    /// # Errors
    /// Returns an error where there is no target, or where it does not fit into a socket address.
    pub fn into_sessions(self, count: usize) -> Result<LongSessions, LoadError> {
        let plan = self.into_plan()?;
        let address = plan.addresses.into_iter().next().ok_or(LoadError::NoTarget)?;
        Ok(LongSessions { address, count, timeout: plan.timeout, options: plan.options })
    }

    /// Starts the generator's thread. The first connection is due at once.
    ///
    /// # Errors
    /// Returns an error where there is no target, where the rate or the number of kept connections is 0, where a target does
    /// not fit into a socket address, or where the kernel refuses a timer, an epoll instance or a thread.
    pub fn start<S: Sink>(self, sink: S) -> Result<RunningLoad<S>, LoadError> {
        let plan = self.into_plan()?;
        let progress = Arc::new(Progress::default());
        let engine = Engine::new(plan, Arc::clone(&progress), sink)?;
        let spawned = std::thread::Builder::new().name("load".into()).spawn(move || engine.run());
        Ok(RunningLoad::new(progress, spawned.map_err(LoadError::Unavailable)?))
    }

    fn into_plan(self) -> Result<Plan, LoadError> {
        if self.targets.is_empty() {
            return Err(LoadError::NoTarget);
        }
        if self.rate == 0 {
            return Err(LoadError::ZeroRate);
        }
        if self.pool == Some(0) {
            return Err(LoadError::ZeroConnections);
        }
        let keep_alive = self.pool.is_some();
        Ok(Plan {
            addresses: self.targets.iter().map(Target::to_socket_address).collect::<Result<_, _>>()?,
            rate: self.rate,
            limit: self.limit,
            timeout: self.timeout,
            options: Arc::new(ConnectionOptions {
                exchange: self.exchange,
                tls: self.tls,
                proxy_protocol: self.proxy_protocol,
                keep_alive,
            }),
            pool: self.pool,
        })
    }
}
