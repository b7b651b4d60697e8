//! Measures what an idle daemon takes: memory, processor time over a minute and open descriptors, before and after many
//! reloads.
//!
//! ```text
//! cargo build --release -p reloader
//! RELOADER_BIN=target/release/reloader cargo run --release -p reloader-tests --example idle_daemon [RELOADS [SECONDS]]
//! ```
//! Run it as root.
#![expect(clippy::disallowed_methods, reason = "a measurement; no daemon's loop is here")]

use std::fs;
use std::time::{Duration, Instant};

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let reloads = arguments.next().unwrap_or(1000);
    let watch = Duration::from_secs(arguments.next().unwrap_or(60));
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let daemon = rig.daemon_process();
    println!(
        "{:<22}{:>10}{:>10}{:>14}{:>13}",
        "",
        "RSS KiB",
        "files",
        "threads",
        format!("CPU ms/{}s", watch.as_secs())
    );
    print_usage("after the start", daemon, watch);
    let mut done = 0;
    for step in [10, reloads / 2, reloads] {
        let began = Instant::now();
        while done < step {
            assert_passed(&rig.reload(), 1);
            done += 1;
        }
        until(Duration::from_secs(10), "the old generations to end", || rig.status().at("/draining/0").is_null());
        print_usage(&format!("after {done} reloads"), daemon, if done < reloads { Duration::ZERO } else { watch });
        eprintln!("    ({:.1} s)", began.elapsed().as_secs_f64());
    }
}

fn print_usage(when: &str, daemon: Process, watch: Duration) {
    let before = cpu_ticks(daemon);
    std::thread::sleep(watch);
    let ticks = cpu_ticks(daemon) - before;
    let cpu = if watch.is_zero() { "-".into() } else { (ticks * 10).to_string() };
    println!(
        "{when:<22}{:>10}{:>10}{:>14}{cpu:>13}",
        field(daemon, "VmRSS:"),
        files(daemon),
        field(daemon, "Threads:")
    );
}

fn field(process: Process, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").to_owned()
}

fn files(process: Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid)).expect("the daemon runs").count()
}

/// User and system time of all its threads, in hundredths of a second.
fn cpu_ticks(process: Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).expect("the daemon runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
