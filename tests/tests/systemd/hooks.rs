//! Tests hooks of other programs after a takeover: signals by the pid file, log rotation, renewed certificates.

use std::path::Path;
use std::process::{Command, Stdio};

use reloader_tests::booted::{Machine, Setup};
use reloader_tests::poll::until;
use reloader_tests::quic::certificate_for;

use super::scene::{LIMIT, Scene, UNIT, config};
use super::sequence::{Sequence, get};

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn signal_by_the_pid_file_reloads() {
    let mut scene = Scene::boot(Machine::setup(), UNIT);
    Sequence::with("-p and kill -USR2 $(cat /run/haproxy.pid)")
        .fate("-p /run/haproxy.pid", "carried")
        .reload(|scene, _| run_hook(scene, "kill -USR2 $(cat /run/haproxy.pid)"))
        .effects(|scene, _| assert_eq!(scene.read("/run/haproxy.pid").trim(), scene.main_pid()))
        .run(&mut scene);
}

/// Debian's own rotation signals rsyslog only. Lines arrive in the new file, before and after a reload.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn log_rotation_of_debian_goes_on() {
    let mut scene = Scene::boot_with(with_log(Machine::setup().with_syslog()), UNIT);
    Sequence::with("Debian's /etc/logrotate.d/haproxy")
        .reload(|scene, _| {
            run_hook(scene, "logrotate --force /etc/logrotate.d/haproxy");
            assert_logs(scene);
            scene.reload();
        })
        .effects(|scene, _| assert_logs(scene))
        .run(&mut scene);
}

/// Rotations that signal or reload HAProxy's unit. SIGHUP to all processes of the unit ends none of them.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn log_rotation_by_the_unit_goes_on() {
    const ROTATION: &str = "/var/log/haproxy.log {\n    rotate 2\n    postrotate\n        /usr/lib/rsyslog/rsyslog-rotate\n        \
        systemctl kill -s HUP haproxy.service\n        systemctl reload haproxy.service\n    endscript\n}\n";
    let setup = Machine::setup().with_syslog().file("/etc/logrotate.d/haproxy", ROTATION);
    let mut scene = Scene::boot_with(with_log(setup), UNIT);
    Sequence::with("logrotate: systemctl kill -s HUP, systemctl reload")
        .reload(|scene, _| {
            run_hook(scene, "logrotate --force /etc/logrotate.d/haproxy");
            assert_logs(scene);
        })
        .effects(|scene, _| assert_logs(scene))
        .run(&mut scene);
}

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn certificate_renewed_with_a_signal_to_the_unit_is_served() {
    renewed_certificates_are_served("certbot's hook: systemctl kill -s USR2", "systemctl kill -s USR2 haproxy");
}

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn certificate_renewed_with_a_reload_of_the_unit_is_served() {
    renewed_certificates_are_served("certbot's hook: systemctl reload", "systemctl reload haproxy");
}

/// Each reload is that of a deploy hook, which gets a new certificate from certbot.
fn renewed_certificates_are_served(surrounding: &'static str, command: &str) {
    const HOOK: &str = "/etc/letsencrypt/renewal-hooks/deploy/haproxy";
    const LINEAGE: &str = "/etc/letsencrypt/live/site";
    let hook = format!(
        "#!/bin/sh\nset -e\ncat $RENEWED_LINEAGE/fullchain.pem $RENEWED_LINEAGE/privkey.pem > /etc/haproxy/site.pem\n{command}\n"
    );
    let with_tls = config().frontend("tls", &["127.0.0.1:8443 ssl crt /etc/haproxy/site.pem"]);
    let directory = tempfile::tempdir().unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let setup = Machine::setup()
        .program(HOOK, &hook)
        .file("/etc/haproxy/site.pem", read(&certificate_for("first.test", directory.path())))
        .haproxy(&with_tls);
    let mut scene = Scene::boot_with(setup, UNIT);
    Sequence::with(surrounding)
        .reload(move |scene, number| {
            let pem = read(&certificate_for(&format!("number{number}.test"), directory.path()));
            let (chain, key) = pem.split_at(pem.find("-----BEGIN PRIVATE KEY").unwrap());
            scene.machine.write(&format!("{LINEAGE}/fullchain.pem"), chain);
            scene.machine.write(&format!("{LINEAGE}/privkey.pem"), key);
            run_hook(scene, &format!("RENEWED_LINEAGE={LINEAGE} {HOOK}"));
        })
        .effects(|scene, _| {
            let file = subject("openssl x509 -noout -subject", &scene.machine.inside("/etc/haproxy/site.pem"));
            let handshake = "openssl s_client -connect 127.0.0.1:8443 2>&1 | openssl x509 -noout -subject";
            assert_eq!(subject(handshake, Path::new("/dev/null")), file);
        })
        .run(&mut scene);
}

/// The subject of a certificate, which the command prints.
fn subject(command: &str, input: &Path) -> String {
    let input = std::fs::File::open(input).unwrap();
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::from(input)).output().expect("running sh");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("CN"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A frontend that logs each request by syslog.
fn with_log(setup: Setup) -> Setup {
    let logged = format!(
        "frontend logged\n    bind {LOGGED}\n    log global\n    option httplog\n    \
         http-request return status 200 content-type text/plain string ok\n"
    );
    setup.haproxy(&config().section(&logged))
}

const LOGGED: &str = "127.0.0.1:8002";

/// A request leads to a further line in the current log file.
#[track_caller]
fn assert_logs(scene: &Scene) {
    let lines = || {
        let text = std::fs::read_to_string(scene.machine.inside("/var/log/haproxy.log")).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"GET / HTTP/1.0\"")).count()
    };
    let before = lines();
    assert_eq!(get(LOGGED), "ok");
    until(LIMIT, "the request to be in the log", || lines() > before);
}

/// Runs a hook as root's shell does.
#[track_caller]
fn run_hook(scene: &Scene, command: &str) {
    scene.machine.run(&["sh", "-c", command]).expect_status(0);
}
