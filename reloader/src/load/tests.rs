use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Where it is accepted by the kernel, and answered by nobody.
fn silent() -> (TcpListener, Load) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    (listener, Load::to(vec![target]).timeout(Duration::from_secs(5)))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Default)]
struct Counted(Arc<AtomicU64>);

impl Sink for Counted {
    fn record(&mut self, _outcome: &Outcome) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Had it waited, they would have timed out.
#[test]
fn one_that_is_dropped_waits_for_nobody() {
    let (_listener, load) = silent();
    let count = Arc::new(AtomicU64::new(0));
    let running = load.connections(3).start(Counted(Arc::clone(&count))).unwrap();
    until("three connections", || running.started() == 3);
    drop(running);
    assert_eq!(count.load(Relaxed), 0);
}

#[test]
fn what_is_abandoned_is_counted_and_nothing_more() {
    let (_listener, load) = silent();
    let running = load.connections(3).start(Vec::new()).unwrap();
    until("three connections", || running.started() == 3);
    running.abandon();
    let ended = running.wait().unwrap();
    assert_eq!((ended.unfinished, ended.sink.len()), (3, 0));
}

struct Stalling {
    stands: Sender<()>,
    go_on: Receiver<()>,
}

impl Sink for Stalling {
    fn record(&mut self, _outcome: &Outcome) {
        let _ = self.stands.send(());
        let _ = self.go_on.recv();
    }
}

/// The generator stands still, is told to start nothing more, and only then goes on.
#[test]
fn a_stall_at_the_end_is_seen() {
    let target = {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        Target::Tcp(closed.local_addr().unwrap())
    };
    let ((stands, standing), (let_go, go_on)) = (channel(), channel());
    let running = Load::to(vec![target]).rate(100).start(Stalling { stands, go_on }).unwrap();
    standing.recv().unwrap();
    let begin = Instant::now();
    running.cease();
    let length = LATE_MAX + Duration::from_millis(100);
    until("the stall to be long enough", || begin.elapsed() > length);
    drop(let_go);
    let latest = running.wait().unwrap().latest_start;
    assert!(latest > LATE_MAX, "{latest:?}");
}

/// A connection that closes while nobody wants anything of it is no longer among those that are free.
#[test]
fn kept_connections_that_end_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    let request = Exchange::Http(b"GET / HTTP/1.1\r\n\r\n"[..].into());
    let plan = Plan {
        addresses: vec![target.resolved().unwrap()],
        rate: 1,
        limit: u64::MAX,
        timeout: Duration::from_secs(5),
        manner: Arc::new(Manner { exchange: request, tls: None, keep: true }),
        pool: Some(4),
    };
    let mut engine = Engine::new(plan, Arc::new(Progress::default()), Vec::new()).unwrap();
    for _ in 0..3 {
        engine.one_that_closes(&listener);
    }
    assert_eq!(engine.left_behind(), (0, 0));
}
