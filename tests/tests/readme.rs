//! What the README shows is what the commands print, numbers and paths aside.

use std::fs;
use std::path::Path;

use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};

#[test]
fn status_prints_what_the_readme_shows() {
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
    rig.reload().expect_status(0);
    // HAProxy counts a rate over a whole second.
    until(std::time::Duration::from_secs(10), "a rate", || rig.status().at("/connection-rate").as_u64() > Some(0));
    let shown = rig.run(&["status"]).expect_status(0).stdout;
    drop(load.stop());
    assert_eq!(shape(&shown, &rig), shape(&console("$ reloader status\n"), &rig), "{shown}");
    drop(server);
}

#[test]
fn reload_prints_what_the_readme_shows() {
    netns::enter();
    let rig = Rig::with(&Config::new().frontend("web", &["127.0.0.1:8080-8083"])).start();
    let good = rig.run(&["reload"]).expect_status(0);
    let broken = fs::read_to_string(rig.haproxy_cfg()).unwrap() + "listen l\n    frobnicate\n";
    fs::write(rig.haproxy_cfg(), broken).unwrap();
    let bad = rig.run(&["reload"]).expect_status(1);
    let alert = |line: &&str| !line.contains("[NOTICE]") && !line.contains("rror(s)") && !line.contains("Fatal");
    let said: Vec<&str> = bad.stderr.lines().filter(alert).collect();
    let shown = console("$ reloader reload\n");
    let (first, rest) = shown.split_once("$ echo").unwrap();
    let (_, second) = rest.split_once('\n').unwrap();
    assert_eq!(shape(&good.stdout, &rig), shape(first, &rig));
    assert_eq!(shape(&format!("{}\n{}", said.join("\n"), bad.stdout), &rig), shape(second, &rig));
}

#[test]
#[ignore = "alone: loads"]
fn prove_prints_what_the_readme_shows() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let arguments = "prove --target 127.0.0.1:8080 --http --reloads 20";
    let shown = console(&format!("$ reloader {arguments} --report report.html\n"));
    assert_plausible(&shown);
    // Shorter, and slower, for machines that do something else too.
    let mut words: Vec<&str> = arguments.split(' ').collect();
    *words.last_mut().unwrap() = "3";
    words.extend(["--rate", "200"]);
    let mut answer = rig.run(&words);
    for _ in 0..30 {
        if answer.status != 75 {
            break;
        }
        answer = rig.run(&words);
    }
    let said: Vec<&str> = answer.stdout.lines().filter(|line| !line.starts_with("late ")).collect();
    assert_eq!(shape(&said.join("\n"), &rig), shape(&shown, &rig), "{}{}", answer.stdout, answer.stderr);
}

/// `shape` hides the figures: those of a run that never was would not add up. A second of quiet before and after the reloads,
/// which are a second apart, at 1000/s.
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

/// The README's output of a command, to the end of its block.
fn console(command: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).unwrap();
    let (_, behind) = text.split_once(command).unwrap_or_else(|| panic!("the README does not show {command}"));
    behind.split_once("```").unwrap().0.to_owned()
}

/// Lines in order of their text, with one space for many, N for every number, and the rig's paths for the usual ones.
fn shape(text: &str, rig: &Rig) -> Vec<String> {
    let text = text
        .replace("/etc/haproxy/haproxy.cfg", &rig.haproxy_cfg().display().to_string())
        .replace("/run/haproxy/admin.sock", &rig.path("admin.sock").display().to_string());
    let line = |line: &str| {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut shape = String::new();
        for character in words.chars() {
            match character {
                '0'..='9' if shape.ends_with('N') => {}
                '0'..='9' => shape.push('N'),
                other => shape.push(other),
            }
        }
        shape
    };
    let mut lines: Vec<String> = text.lines().map(line).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}
