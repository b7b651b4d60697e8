//! The load that an emulated machine can be given. Beyond what it carries every connection is late without any reload, and
//! a test would see nothing else.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::is_guest;
use crate::haproxy::HaproxyBinary;
use crate::load::{Load, Outcomes};
use crate::netns;
use crate::plain::{Method, Plain};
use crate::tier;

/// A reload under less than this would prove little.
const LEAST: u32 = 200;

/// At once, to overload it: what it completes then is more than it carries, because nothing is done singly.
const TOGETHER: u64 = 400;

/// How long each rate is tried, in seconds.
const TRIAL: u64 = 2;

/// Of a rate that is carried hardly any connection waits so long.
const PROMPT: Duration = Duration::from_millis(100);

/// The variable by which a guest is told what another one of its kind has measured.
pub const CARRIED: &str = "RELOADER_GUEST_CARRIES";

const MESSAGE: &str = "this guest carries ";

/// Other test programs in the same guest need not measure again.
const KNOWN: &str = "/run/reloader-guest-carries";

/// This many connections a second, or a part of what the guest carries without reloads where that is less: half of it in a run of
/// everything, an eighth in others, because each connection costs an emulator ten times what it costs a processor.
pub fn rate(wanted: u32) -> u32 {
    static CARRIED: OnceLock<u32> = OnceLock::new();
    if !is_guest() {
        return wanted;
    }
    let carried = *CARRIED.get_or_init(|| known().unwrap_or_else(measure));
    let part = if tier::is_all() { 2 } else { 8 };
    wanted.min((carried / part).max(LEAST))
}

fn known() -> Option<u32> {
    let by_environment = std::env::var(CARRIED).ok();
    by_environment.or_else(|| fs::read_to_string(KNOWN).ok())?.trim().parse().ok()
}

/// What such a guest carries, from the line in which it says what it has measured. None where no rate was seen to be carried.
pub fn carried(line: &str) -> Option<u32> {
    let rate = line.split_once(MESSAGE)?.1.strip_suffix(" connections/s")?.parse().ok()?;
    (rate > 2 * LEAST).then_some(rate)
}

/// From a rate that is too high downwards, by a quarter each, until nearly all connections are served promptly.
fn measure() -> u32 {
    // In a namespace of its own, so on a thread of its own.
    let measured = std::thread::spawn(|| {
        netns::enter();
        let _server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
        let began = Instant::now();
        load(1_000_000, TOGETHER);
        let mut rate = (TOGETHER as f64 / began.elapsed().as_secs_f64()) as u32;
        while rate > 2 * LEAST && !is_carried(rate) {
            rate = rate / 4 * 3;
        }
        rate
    });
    let carried = measured.join().expect("measuring what the guest carries");
    let _ = writeln!(std::io::stderr(), "{MESSAGE}{carried} connections/s");
    fs::write(Path::new(KNOWN), carried.to_string()).unwrap_or_else(|error| panic!("{KNOWN}: {error}"));
    carried
}

fn is_carried(rate: u32) -> bool {
    let summary = load(rate, u64::from(rate) * TRIAL).summary();
    summary.failed() == 0 && u128::from(summary.latency.value_at_quantile(0.99)) < PROMPT.as_micros()
}

fn load(rate: u32, connections: u64) -> Outcomes {
    Load::to(["127.0.0.1:8000"]).rate(rate).connections(connections).start_unlimited().wait()
}
