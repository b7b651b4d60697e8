//! The load that an emulated machine can be given. Beyond what it carries every connection is late without any reload, and
//! a test would see nothing else.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use super::is_guest;
use crate::haproxy::HaproxyBinary;
use crate::netns;
use crate::plain::{Method, Plain};

/// A reload under less than this would prove little.
const LEAST: u32 = 200;

const WARM_UP: u32 = 50;
const MEASURED: u32 = 400;

/// Other test binaries in the same guest need not measure again.
const KNOWN: &str = "/run/reloader-guest-carries";

/// This many connections a second, or half of what the guest carries without reloads where that is less.
pub fn rate(wanted: u32) -> u32 {
    static CARRIED: OnceLock<u32> = OnceLock::new();
    if !is_guest() {
        return wanted;
    }
    let carried = *CARRIED.get_or_init(|| known().unwrap_or_else(measure));
    wanted.min((carried / 2).max(LEAST))
}

fn known() -> Option<u32> {
    fs::read_to_string(KNOWN).ok()?.trim().parse().ok()
}

/// One after the other: on one processor nothing is gained by more at once.
fn measure() -> u32 {
    // In a namespace of its own, so on a thread of its own.
    let measured = std::thread::spawn(|| {
        netns::enter();
        let _server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
        (0..WARM_UP).for_each(|_| connect());
        let began = Instant::now();
        (0..MEASURED).for_each(|_| connect());
        f64::from(MEASURED) / began.elapsed().as_secs_f64()
    });
    let carried = measured.join().expect("measuring what the guest carries") as u32;
    let _ = writeln!(std::io::stderr(), "this guest carries {carried} connections/s");
    fs::write(Path::new(KNOWN), carried.to_string()).unwrap_or_else(|error| panic!("{KNOWN}: {error}"));
    carried
}

fn connect() {
    let mut stream = TcpStream::connect("127.0.0.1:8000").expect("HAProxy listens");
    let mut answer = Vec::new();
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .and_then(|()| stream.read_to_end(&mut answer).map(drop))
        .expect("HAProxy answers");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}
