//! Tests that README.md and the reference show what `status` and `prove` print, apart from numbers and paths.

use reloader_tests::config::Config;
use reloader_tests::documents::{self, Step};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};

use super::{PROVE, Place, README, STATUS};

const STATUS_BLOCKS: [Place; 2] = [(README, "$ reloader status"), (STATUS, "$ reloader status")];
const PROVE_BLOCKS: [Place; 2] = [(README, "$ reloader prove"), (PROVE, "$ reloader prove")];

pub(super) const BLOCKS: &[Place] = &[STATUS_BLOCKS[0], STATUS_BLOCKS[1], PROVE_BLOCKS[0], PROVE_BLOCKS[1]];

#[test]
fn status_prints_what_the_documents_show() {
    netns::enter();
    let server = Server::start("127.0.0.1:9000", Reaction::Silent);
    let mut rig = Rig::with(&Config::new()).prepare();
    let config = Config::new()
        .stats_socket(&rig.path("admin.sock"))
        .frontend("web", &["127.0.0.1:8080", "[::]:8443"])
        .tcp_proxy("idle", &["127.0.0.1:8081"], "127.0.0.1:9000");
    rig.configure(&config);
    rig.start_daemon();
    let _idle = IdleConnections::open("127.0.0.1:8081", 12);
    let load = Load::to(["127.0.0.1:8080"]).rate(200).start();
    rig.configure(&config.global("# edited"));
    rig.reload().expect_status(0);
    // HAProxy counts a rate over a whole second.
    until(std::time::Duration::from_secs(10), "a rate", || rig.status().at("/connection-rate").as_u64() > Some(0));
    let printed = rig.run(&["status"]).expect_status(0).stdout;
    drop(load.stop());
    for place in STATUS_BLOCKS {
        assert_eq!(shapes(printed.lines()), shapes(shown(place, &rig)), "{printed}");
    }
    drop(server);
}

#[test]
#[ignore = "alone: loads"]
fn prove_prints_what_the_documents_show() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    // The run is shorter and slower than a proof would be, for machines that do something else too.
    let words = ["prove", "--target", "127.0.0.1:8080", "--http", "--reloads", "3", "--rate", "200"];
    let mut answer = rig.run(&words);
    for _ in 0..30 {
        if answer.status != 75 {
            break;
        }
        answer = rig.run(&words);
    }
    let lines = answer.stderr.lines().chain(answer.stdout.lines());
    let printed = shapes(lines.filter(|line| !line.starts_with("late ")));
    for place in PROVE_BLOCKS {
        let shown = shown(place, &rig);
        assert_plausible(&shown.join("\n"));
        assert_eq!(printed, shapes(shown), "{}{}", answer.stdout, answer.stderr);
    }
}

/// Checks that the figures agree with each other, because shapes hide them and a page could show invented ones. The load runs at 1000/s. The
/// reloads are a second apart, with a second before the first and after the last.
fn assert_plausible(shown: &str) {
    let number = |before: &str| -> f64 {
        let (_, behind) = shown.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {shown}"));
        let digits: String = behind.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
        digits.parse().unwrap_or_else(|_| panic!("no number behind {before:?} in {shown}"))
    };
    let (total, reloads) = (number("none of "), number("through "));
    let longest = number("the longest ") / 1000.0;
    let least = (reloads + 1.0) * 1000.0;
    assert!((least..=least + 1000.0 * (longest + 0.2)).contains(&total), "{total} of {reloads} reloads");
    assert!(
        number("p50 ") <= number("p99 ") && number("p99 ") <= number("p99.9 ") && number("p99.9 ") <= number("max ")
    );
}

/// The output that a block shows, with the rig's paths in place of the usual ones.
fn shown((page, beginning): Place, rig: &Rig) -> Vec<String> {
    let steps = documents::block(page, beginning).steps();
    let [Step { shown, .. }] = &steps[..] else { panic!("{page}: one command") };
    let with_paths = |line: &String| {
        let line = line.replace("/etc/haproxy/haproxy.cfg", &rig.haproxy_cfg().display().to_string());
        line.replace("/run/haproxy/admin.sock", &rig.path("admin.sock").display().to_string())
    };
    shown.iter().map(with_paths).collect()
}

/// The shapes of the lines, sorted. The order is no part of the test: listeners are printed by address, and the rig's
/// paths are not the usual ones.
fn shapes(lines: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let mut shapes: Vec<String> = lines.into_iter().map(|line| documents::shape(line.as_ref())).collect();
    shapes.sort();
    shapes
}
