use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;
use crate::load::exchange::Exchange;
use crate::load::target::Target;

impl Engine<Vec<Outcome>> {
    /// Makes a request and has it answered. Then closes the connection while no job needs it.
    fn serve_one_and_close(&mut self, listener: &TcpListener) {
        self.start_job(Instant::now());
        let mut accepted = listener.accept().unwrap().0;
        assert!(accepted.read(&mut [0; 100]).unwrap() > 0);
        accepted.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        self.drive_until(|engine| engine.finished == engine.schedule.started());
        drop(accepted);
        let closed = self.closed_between;
        self.drive_until(|engine| engine.closed_between > closed);
    }

    fn drive_until(&mut self, is_reached: impl Fn(&Self) -> bool) {
        let mut ready = Vec::new();
        while !is_reached(self) {
            self.poller.wait(Duration::from_secs(10), &mut ready);
            assert!(!ready.is_empty(), "no event within 10 s");
            ready.iter().for_each(|key| self.drive(*key));
        }
        self.expire(Instant::now());
    }
}

#[test]
fn kept_connection_that_the_server_closes_leaves_no_state_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    let exchange = Exchange::Http(b"GET / HTTP/1.1\r\n\r\n"[..].into());
    let plan = Plan {
        addresses: vec![target.to_socket_address().unwrap()],
        rate: 1,
        limit: u64::MAX,
        timeout: Duration::from_secs(5),
        options: Arc::new(ConnectionOptions { exchange, tls: None, proxy_protocol: false, keep_alive: true }),
        pool: Some(4),
    };
    let mut engine = Engine::new(plan, Arc::new(Progress::default()), Vec::new()).unwrap();
    for _ in 0..3 {
        engine.serve_one_and_close(&listener);
    }
    assert_eq!((engine.idle.len(), engine.deadlines.len()), (0, 0));
}
