//! Long sessions beside a load: connections that stay open, each of which is alive or has an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr};

use super::connection::{Advance, Connection};
use super::error::LoadError;
use super::exchange::ConnectionOptions;
use super::outcome::Failure;
use super::poller::Poller;

/// How often a session with a request sends a byte of its body.
const BYTE_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a call to end the sessions is noticed.
const END_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The pause before a session is driven again without an event, such as one that meets a full unix backlog.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Sessions that have not been started.
#[derive(Clone)]
pub struct LongSessions {
    pub(super) address: (Domain, SockAddr),
    pub(super) count: usize,
    pub(super) timeout: Duration,
    pub(super) options: Arc<ConnectionOptions>,
}

/// How a session went.
pub type SessionResult = Result<(), Failure>;

/// A session that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedSession {
    /// When its end was noticed.
    pub at: Instant,
    /// Whether it lived until its client ended it, and the server then closed or replied in good order.
    pub result: SessionResult,
}

/// Sessions under way. When it is dropped, their connections are closed.
pub struct RunningSessions {
    shared: Arc<Shared>,
    /// Carries one message, when each session is open or has failed: those that have failed. It is closed when all have ended.
    begun: Receiver<Vec<EndedSession>>,
    /// Those that could not be opened.
    failed: Vec<EndedSession>,
    thread: Option<JoinHandle<Vec<EndedSession>>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    abandon: AtomicBool,
}

impl LongSessions {
    /// Starts a thread that opens the sessions in the network namespace of this thread. Waits until each is open or has failed, for the
    /// timeout at most.
    ///
    /// # Errors
    /// Where the number is 0, and where the kernel refuses a timer, an epoll instance or a thread.
    pub fn start(self) -> Result<RunningSessions, LoadError> {
        if self.count == 0 {
            return Err(LoadError::ZeroSessions);
        }
        let shared = Arc::new(Shared::default());
        let poller = Poller::new().map_err(|errno| LoadError::Unavailable(errno.into()))?;
        let (sender, begun) = channel();
        let sessions = Vec::with_capacity(self.count);
        let keeper = Keeper { plan: self, shared: Arc::clone(&shared), poller, sessions, retries: Vec::new() };
        let thread = std::thread::Builder::new().name("sessions".into()).spawn(move || keeper.run(&sender));
        let thread = Some(thread.map_err(LoadError::Unavailable)?);
        let failed = begun.recv().map_err(|_| LoadError::Panicked)?;
        Ok(RunningSessions { shared, begun, failed, thread })
    }
}

impl RunningSessions {
    /// Waits for this long, or until all sessions have ended. True: all have ended.
    pub fn have_ended_within(&self, time: Duration) -> bool {
        matches!(self.begun.recv_timeout(time), Err(RecvTimeoutError::Disconnected))
    }

    /// The sessions that could not be opened.
    pub fn failed_to_open(&self) -> &[EndedSession] {
        &self.failed
    }

    /// Begins to end the sessions as their clients do. Returns without waiting.
    pub fn end(&self) {
        self.shared.end.store(true, Relaxed);
    }

    /// Whether all sessions have ended.
    pub fn are_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the sessions and waits for the server, for the timeout at most.
    ///
    /// # Errors
    /// [`LoadError::Panicked`].
    pub fn wait(mut self) -> Result<Vec<EndedSession>, LoadError> {
        self.end();
        let thread = self.thread.take().ok_or(LoadError::Panicked)?;
        thread.join().map_err(|_| LoadError::Panicked)
    }
}

impl Drop for RunningSessions {
    fn drop(&mut self) {
        self.shared.abandon.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that keeps the sessions.
struct Keeper {
    plan: LongSessions,
    shared: Arc<Shared>,
    poller: Poller,
    sessions: Vec<Session>,
    /// Sessions to drive in the next turn without an event.
    retries: Vec<usize>,
}

struct Session {
    /// `None`: it could not be made, or has ended.
    connection: Option<Connection>,
    is_watched: bool,
    end: Option<EndedSession>,
}

impl Keeper {
    fn run(mut self, begun: &Sender<Vec<EndedSession>>) -> Vec<EndedSession> {
        (0..self.plan.count).for_each(|_| self.open_one());
        let deadline = Instant::now() + self.plan.timeout;
        self.turn_until(|keeper| keeper.sessions.iter().all(Session::has_begun), deadline);
        self.fail(|session| !session.has_begun());
        // The owner may be gone.
        let _ = begun.send(self.sessions.iter().filter_map(|session| session.end).collect());
        self.keep();
        // What the server has closed by now was not ended by its client.
        self.advance_each(Connection::drive);
        self.advance_each(Connection::end_session);
        let deadline = Instant::now() + self.plan.timeout;
        self.turn_until(|keeper| keeper.sessions.iter().all(|session| session.end.is_some()), deadline);
        self.fail(|_| true);
        self.sessions.into_iter().filter_map(|session| session.end).collect()
    }

    /// Keeps the sessions open until they are to end.
    fn keep(&mut self) {
        let is_over = |keeper: &Keeper| {
            keeper.shared.end.load(Relaxed) || keeper.sessions.iter().all(|session| session.end.is_some())
        };
        let mut next_byte = Instant::now() + BYTE_INTERVAL;
        while !self.turn_until(is_over, next_byte) {
            self.advance_each(Connection::continue_session);
            next_byte += BYTE_INTERVAL;
        }
    }

    /// Drives the sessions until `is_done` or the deadline. True: it is done, or the sessions are abandoned.
    fn turn_until(&mut self, is_done: impl Fn(&Keeper) -> bool, deadline: Instant) -> bool {
        let mut ready = Vec::new();
        while !self.shared.abandon.load(Relaxed) && !is_done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = if self.retries.is_empty() { END_POLL_INTERVAL } else { RETRY_INTERVAL };
            self.poller.wait(wait.min(left), &mut ready);
            let retried = std::mem::take(&mut self.retries);
            let due = retried.into_iter().chain(ready.iter().map(|key| *key as usize));
            due.for_each(|number| self.advance(number, Connection::drive));
        }
        true
    }

    fn open_one(&mut self) {
        let (domain, address) = &self.plan.address;
        let opened = Connection::open(*domain, address, Arc::clone(&self.plan.options));
        let end = opened.as_ref().err().map(|failure| EndedSession { at: Instant::now(), result: Err(*failure) });
        self.sessions.push(Session { connection: opened.ok(), is_watched: false, end });
        self.advance(self.sessions.len() - 1, Connection::drive);
    }

    /// Ends those that have no end yet and are `late`.
    fn fail(&mut self, late: impl Fn(&Session) -> bool) {
        let unended = self.sessions.iter_mut().filter(|session| session.end.is_none() && late(session));
        unended.for_each(|session| session.finish(Err(Failure::Timeout)));
    }

    fn advance_each(&mut self, step: impl Fn(&mut Connection) -> Advance) {
        (0..self.sessions.len()).for_each(|number| self.advance(number, &step));
    }

    fn advance(&mut self, number: usize, step: impl Fn(&mut Connection) -> Advance) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(connection) = &mut session.connection else { return };
        match step(connection) {
            Advance::Done(result) => session.finish(result),
            Advance::WaitForSocket if !session.is_watched => {
                session.is_watched = true;
                let is_connected = connection.is_established();
                if let Err(errno) = self.poller.watch(connection.socket(), number as u64, is_connected) {
                    session.finish(Err(Failure::Local(errno as i32)));
                }
            }
            Advance::RunAgain => self.retries.push(number),
            Advance::WaitForSocket => {}
        }
    }
}

impl Session {
    fn has_begun(&self) -> bool {
        self.end.is_some() || self.connection.as_ref().is_some_and(Connection::is_open_session)
    }

    /// The first end counts.
    fn finish(&mut self, result: SessionResult) {
        // Dropping the socket closes it and removes it from the epoll set.
        self.connection = None;
        self.end.get_or_insert(EndedSession { at: Instant::now(), result });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::load::{Exchange, Load, SessionContent, Target};

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn sessions(listener: &TcpListener, content: SessionContent, count: usize) -> LongSessions {
        let load = Load::new(vec![Target::Tcp(listener.local_addr().unwrap())]).timeout(Duration::from_secs(20));
        load.exchange(Exchange::Session(content)).into_sessions(count).unwrap()
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn results(ended: &[EndedSession]) -> Vec<SessionResult> {
        ended.iter().map(|session| session.result).collect()
    }

    /// Reads a whole request, and replies.
    fn serve(mut stream: TcpStream) -> Vec<u8> {
        let mut request = Vec::new();
        let mut buffer = [0; 100];
        while !request.ends_with(LAST_CHUNK) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "closed within the request");
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        request
    }

    const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

    #[test]
    fn held_request_sends_its_body_byte_by_byte_and_is_answered_at_its_end() {
        let listener = listener();
        let running = sessions(&listener, SessionContent::Request(HEAD.into()), 1).start().unwrap();
        assert!(running.failed_to_open().is_empty());
        let mut stream = listener.accept().unwrap().0;
        let mut begin = vec![0; HEAD.len() + 6];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(begin, [HEAD, b"1\r\n.\r\n"].concat());
        running.end();
        let rest = serve(stream);
        assert!(rest.ends_with(LAST_CHUNK));
        assert_eq!(results(&running.wait().unwrap()), [Ok(())]);
    }

    #[test]
    fn sessions_that_the_server_ends_are_lost_each_with_its_reason() {
        let listener = listener();
        let running = sessions(&listener, SessionContent::Nothing, 3).start().unwrap();
        let mut streams: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        let last = streams.pop().unwrap();
        // The greeting of another protocol is no end.
        (&last).write_all(b"220 mail\r\n").unwrap();
        streams[0].write_all(b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n").unwrap();
        drop(streams);
        running.end();
        let server = std::thread::spawn(move || (&last).read_to_end(&mut Vec::new()));
        let results = results(&running.wait().unwrap());
        server.join().unwrap().unwrap();
        for expected in [Ok(()), Err(Failure::Empty), Err(Failure::Status(408))] {
            assert!(results.contains(&expected), "{results:?}");
        }
    }

    #[test]
    fn reply_before_the_end_of_the_request_is_told() {
        let listener = listener();
        let running = sessions(&listener, SessionContent::Request(HEAD.into()), 1).start().unwrap();
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(running.have_ended_within(Duration::from_secs(20)));
        assert_eq!(results(&running.wait().unwrap()), [Err(Failure::AnsweredEarly)]);
    }

    #[test]
    fn session_that_cannot_be_opened_is_known_before_anything_begins() {
        let listener = listener();
        let sessions = sessions(&listener, SessionContent::Nothing, 2);
        drop(listener);
        let running = sessions.start().unwrap();
        assert_eq!(results(running.failed_to_open()), [Err(Failure::Refused); 2]);
    }
}
