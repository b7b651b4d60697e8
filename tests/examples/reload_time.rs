//! Measures the time of a reload from request to receipt, beside HAProxy's own `-x -sf`, round by round in the same
//! run.
//!
//! ```text
//! cargo build --release -p reloader
//! RELOADER_BIN=target/release/reloader cargo run --release -p reloader-tests --example reload_time [ROUNDS]
//! ```
//! Run it as root. Both start the same HAProxy with the same listeners, without load.

use std::time::{Duration, Instant};

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::netns;
use reloader_tests::plain::{Method, Plain};
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;

fn main() {
    let rounds = std::env::args().nth(1).map_or(21, |rounds| rounds.parse().expect("a number of rounds"));
    netns::enter();
    println!("medians over {rounds} rounds, ms");
    println!(
        "{:>9}{:>10}{:>10}{:>10}{:>7}   phases of reloader",
        "listeners", "-x -sf", "reloader", "command", "ratio"
    );
    for listeners in [1, 100, 3000] {
        compare(listeners, rounds);
    }
}

/// Reloader listens on other ports than the plain HAProxy beside it.
fn compare(listeners: u16, rounds: usize) {
    let bind = format!("127.0.0.1:4000-{}", 3999 + listeners);
    let rig = Rig::with(&Config::web(&bind)).start();
    let mut plain = Plain::start(&HaproxyBinary::installed(), Method::PassSockets, listeners);
    let mut figures = Figures::default();
    for round in 0..=rounds {
        let own = plain.reload();
        let began = Instant::now();
        let receipt = rig.reload();
        let command = began.elapsed();
        assert_passed(&receipt, listeners.into());
        if round == 0 {
            // In the first round files and code are read from the disk.
            continue;
        }
        let phase = |name: &str| Duration::from_micros(receipt.at(&format!("/phases-us/{name}")).as_u64().unwrap_or(0));
        figures.plain.push(own);
        figures.command.push(command);
        figures.total.push(phase("total"));
        figures.phases.iter_mut().zip(PHASES).for_each(|(times, name)| times.push(phase(name)));
    }
    figures.print(listeners);
}

const PHASES: [&str; 4] = ["plan", "start", "confirm", "retire"];

#[derive(Default)]
struct Figures {
    plain: Vec<Duration>,
    total: Vec<Duration>,
    command: Vec<Duration>,
    phases: [Vec<Duration>; 4],
}

impl Figures {
    fn print(&mut self, listeners: u16) {
        let [plain, total, command] = [&mut self.plain, &mut self.total, &mut self.command].map(|times| median(times));
        let phases: Vec<String> =
            self.phases.iter_mut().zip(PHASES).map(|(times, name)| format!("{name} {:.1}", median(times))).collect();
        println!(
            "{listeners:>9}{plain:>10.1}{total:>10.1}{command:>10.1}{:>7.2}   {}",
            total / plain,
            phases.join(", ")
        );
    }
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
