use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::*;

/// A load on a listener whose connections the kernel accepts and no process answers.
fn silent() -> (TcpListener, Load) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    (listener, Load::new(vec![target]).timeout(Duration::from_secs(5)))
}

fn wait_until(what: &str, is_reached: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_reached() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Default)]
struct CountingSink(Arc<AtomicU64>);

impl Sink for CountingSink {
    fn record(&mut self, _outcome: &Outcome) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// If the drop waited, the connections would time out and be counted.
#[test]
fn drop_does_not_wait_for_open_connections() {
    let (_listener, load) = silent();
    let count = Arc::new(AtomicU64::new(0));
    let running = load.connections(3).start(CountingSink(Arc::clone(&count))).unwrap();
    wait_until("three connections", || running.started() == 3);
    drop(running);
    assert_eq!(count.load(Relaxed), 0);
}

#[test]
fn abandoned_connections_are_counted_and_not_recorded() {
    let (_listener, load) = silent();
    let running = load.connections(3).start(Vec::new()).unwrap();
    wait_until("three connections", || running.started() == 3);
    running.abandon();
    let finished = running.wait().unwrap();
    assert_eq!((finished.unfinished, finished.sink.len()), (3, 0));
}

/// Stalls the generator's thread in the first record.
struct StallingSink {
    stalled: Sender<()>,
    resume: Receiver<()>,
}

impl Sink for StallingSink {
    fn record(&mut self, _outcome: &Outcome) {
        let _ = self.stalled.send(());
        let _ = self.resume.recv();
    }
}

/// The generator stalls, is told to start nothing more, and continues only after that.
#[test]
fn stall_at_the_end_shows_in_the_start_delay() {
    let target = {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        Target::Tcp(closed.local_addr().unwrap())
    };
    let ((stalled, is_stalled), (let_go, resume)) = (channel(), channel());
    let running = Load::new(vec![target]).rate(100).start(StallingSink { stalled, resume }).unwrap();
    is_stalled.recv().unwrap();
    let begin = Instant::now();
    running.stop_starting();
    let length = MAX_START_DELAY + Duration::from_millis(100);
    wait_until("the stall to be long enough", || begin.elapsed() > length);
    drop(let_go);
    let delay = running.wait().unwrap().max_start_delay;
    assert!(delay > MAX_START_DELAY, "{delay:?}");
}
