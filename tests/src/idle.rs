//! Keeps established connections on which nothing is sent, and notices when they die.
//!
//! The kernel keeps each event until it is read, so no thread is needed: `alive` reads the events that have happened.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Socket, Type};

use crate::load::Target;

/// Established connections on which nothing is sent.
pub struct IdleConnections {
    epoll: Epoll,
    connections: Vec<Option<Socket>>,
    deaths: Vec<Death>,
}

/// The end of one connection.
#[derive(Debug, Clone)]
pub struct Death {
    /// The number of the connection.
    pub connection: usize,
    /// What the other side did: `closed`, or the error.
    pub how: String,
    /// When the end was noticed.
    pub noticed: Instant,
}

impl IdleConnections {
    /// Establishes `count` connections. Panics if one cannot be established.
    pub fn open(target: impl Into<Target>, count: usize) -> IdleConnections {
        crate::limits::raise_open_files();
        let (domain, address) = target.into().resolved();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll_create");
        let mut connections = Vec::with_capacity(count);
        for number in 0..count {
            let socket = Socket::new(domain, Type::STREAM, None).expect("socket");
            socket.connect(&address).unwrap_or_else(|error| panic!("idle connection {number}: {error}"));
            socket.set_nonblocking(true).expect("O_NONBLOCK");
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, number as u64);
            epoll.add(socket.as_fd(), event).expect("epoll_ctl");
            connections.push(Some(socket));
        }
        IdleConnections { epoll, connections, deaths: Vec::new() }
    }

    /// The number of connections that live at this moment.
    pub fn alive(&mut self) -> usize {
        while self.read_events(EpollTimeout::ZERO) > 0 {}
        self.connections.iter().flatten().count()
    }

    /// Waits for the next death. Gives none if there is none within `limit`.
    pub fn next_death(&mut self, limit: Duration) -> Option<&Death> {
        let known = self.deaths.len();
        let deadline = Instant::now() + limit;
        while self.deaths.len() == known {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = EpollTimeout::try_from(left).expect("less than a month");
            if self.read_events(timeout) == 0 && left.is_zero() {
                return None;
            }
        }
        self.deaths.last()
    }

    /// The connections that died, in the order in which it was noticed.
    pub fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    /// Sends a request through each living connection and reads the reply to its end. Gives the number of answered
    /// requests. The other connections are among the deaths.
    pub fn count_answered(&mut self) -> usize {
        self.alive();
        let mut answered = 0;
        for number in 0..self.connections.len() {
            let Some(socket) = self.connections[number].take() else {
                continue;
            };
            match request(&socket) {
                Ok(()) => answered += 1,
                Err(error) => self.record_death(number, error.to_string()),
            }
        }
        answered
    }

    fn read_events(&mut self, timeout: EpollTimeout) -> usize {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        for event in &events[..count] {
            let number = event.data() as usize;
            let Some(socket) = &self.connections[number] else {
                continue;
            };
            let how = match (&mut &*socket).read(&mut [0; 1024]) {
                Ok(0) => "closed".to_owned(),
                Err(error) if error.kind() != ErrorKind::WouldBlock => error.to_string(),
                // The other side sent something unasked, for example a greeting: the connection lives.
                _ => continue,
            };
            self.connections[number] = None;
            self.record_death(number, how);
        }
        count
    }

    fn record_death(&mut self, connection: usize, how: String) {
        self.deaths.push(Death { connection, how, noticed: Instant::now() });
    }
}

fn request(mut socket: &Socket) -> anyhow::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply)?;
    anyhow::ensure!(!reply.is_empty(), "closed without a reply");
    Ok(())
}
