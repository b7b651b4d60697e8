//! The load that an emulated machine can be given. Beyond what it carries every connection is late without any reload, and
//! a test would see nothing else.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use super::is_guest;
use crate::haproxy::HaproxyBinary;
use crate::load::Load;
use crate::netns;
use crate::plain::{Method, Plain};

/// A reload under less than this would prove little.
const LEAST: u32 = 200;

const MEASURED: u64 = 800;

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

/// By the generator's own account of connections that all came at once: a machine that is overloaded shows what it carries.
fn measure() -> u32 {
    // In a namespace of its own, so on a thread of its own.
    let measured = std::thread::spawn(|| {
        netns::enter();
        let _server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
        let load = |connections| Load::to(["127.0.0.1:8000"]).connections(connections).all_at_once();
        load(MEASURED / 8).assert_lossless();
        let began = Instant::now();
        load(MEASURED).assert_lossless();
        MEASURED as f64 / began.elapsed().as_secs_f64()
    });
    let carried = measured.join().expect("measuring what the guest carries") as u32;
    let _ = writeln!(std::io::stderr(), "this guest carries {carried} connections/s");
    fs::write(Path::new(KNOWN), carried.to_string()).unwrap_or_else(|error| panic!("{KNOWN}: {error}"));
    carried
}
