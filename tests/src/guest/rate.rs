//! Limits the load to the rate that an emulated machine sustains. Beyond that rate every connection is late even
//! without a reload, which would hide what the test looks for.

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

/// A reload under a lower rate would prove little.
const LEAST: u32 = 200;

/// Connections that are started at once, to overload the guest. The rate at which it completes them is more than it
/// sustains, because it then works in batches.
const TOGETHER: u64 = 400;

/// How long each rate is tried, in seconds.
const TRIAL: u64 = 2;

/// At a rate that the guest sustains, hardly any connection takes this long.
const PROMPT: Duration = Duration::from_millis(100);

/// The environment variable that holds the rate which another guest of the same kind has measured.
pub const CARRIED: &str = "RELOADER_GUEST_CARRIES";

const MESSAGE: &str = "this guest carries ";

/// Keeps the measured rate for other test programs in the same guest.
const KNOWN: &str = "/run/reloader-guest-carries";

/// The number of connections per second for a load that asks for `wanted`. In a guest it is at most a part of the rate
/// that the guest sustains without reloads: a half in a run of everything, an eighth in other runs. Each connection
/// costs an emulator ten times what it costs a processor.
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

/// The rate in the line by which a guest reports what it has measured. None if the guest sustained none of the rates
/// tried.
pub fn carried(line: &str) -> Option<u32> {
    let rate = line.split_once(MESSAGE)?.1.strip_suffix(" connections/s")?.parse().ok()?;
    (rate > 2 * LEAST).then_some(rate)
}

/// Begins with a rate that is too high, and lowers it by a quarter until nearly all connections are served promptly.
fn measure() -> u32 {
    // It needs its own network namespace, and so its own thread.
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
    let carried = measured.join().expect("measuring the rate that the guest sustains");
    let _ = writeln!(std::io::stderr(), "{MESSAGE}{carried} connections/s");
    fs::write(Path::new(KNOWN), carried.to_string()).unwrap_or_else(|error| panic!("{KNOWN}: {error}"));
    carried
}

fn is_carried(rate: u32) -> bool {
    let summary = load(rate, u64::from(rate) * TRIAL).summary();
    summary.failed() == 0 && u128::from(summary.latency.value_at_quantile(0.99)) < PROMPT.as_micros()
}

fn load(rate: u32, connections: u64) -> Outcomes {
    Load::to(["127.0.0.1:8000"]).rate(rate).connections(connections).start_at_full_rate().wait()
}
