//! Tests reloads of HAProxy under HTTP/3 clients. Each test needs root, for a network namespace of its own.

use std::path::Path;

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::quic::{Load, Outcomes, certificate, speaks_quic};
use reloader_tests::receipt::{assert_passed, listener};
use reloader_tests::rig::Rig;
use reloader_tests::{netns, versions};

const RELOADS: u64 = 8;
const ADDRESS: &str = "udp@127.0.0.1:8443";

fn speaking_quic() -> Vec<HaproxyBinary> {
    let mut all = versions::all();
    all.retain(speaks_quic);
    assert!(all.len() >= 2, "two of the versions speak QUIC");
    all
}

fn config(pem: &Path, bind: &str, options: &str) -> Config {
    let bind = format!("{bind} ssl crt {} alpn h3 {options}", pem.display());
    // Debian's OpenSSL has no QUIC of its own before 3.5. A draining HAProxy spins on a closed connection until the idle timeout of that
    // connection, see docs/reference/receipts.md.
    let config = Config::new().global("limited-quic").global("nbthread 1");
    config.global("tune.quic.frontend.max-idle-timeout 3s").frontend("quic", &[&bind])
}

/// Asserts that every client was answered, and that no more connections were closed than could be in their handshake. HAProxy does not
/// serve a connection whose handshake ends after it was told to stop (docs/reference/receipts.md); passing the socket cannot change that.
fn assert_answered(outcomes: &Outcomes, reloads: u64) {
    assert_eq!(outcomes.unanswered, 0, "{outcomes}");
    assert!(outcomes.connections > 10 * reloads, "{outcomes}");
    assert!(outcomes.unserved() <= 2 * reloads, "more were unserved than were in their handshake: {outcomes}");
}

#[test]
#[ignore = "alone: loads"]
fn reloads_leave_no_client_unanswered() {
    for binary in speaking_quic() {
        netns::enter();
        let dir = tempfile::tempdir().unwrap();
        let config = config(&certificate(dir.path()), "quic4@127.0.0.1:8443", "");
        let rig = Rig::with(&config).haproxy(&binary).start();
        let custody = rig.status();
        let kept = custody.at("/custody").as_array().unwrap().iter().filter(|kept| kept["address"] == ADDRESS);
        assert_eq!(kept.count(), 1, "{}", custody.stdout);
        for (words, place) in
            [(["reload", "--dry-run", "--json"].as_slice(), "/plan/0"), (&["probe", "--json"], "/listeners/0")]
        {
            let planned = rig.run(words).expect_status(0).at(place).clone();
            assert_eq!((&planned["address"], &planned["rung"]), (&ADDRESS.into(), &"passed".into()), "{words:?}");
        }

        let load = Load::to("127.0.0.1", 8443).long_lived(4).start();
        load.until_further(10);
        for _ in 0..RELOADS {
            let receipt = rig.reload();
            assert_passed(&receipt, 1);
            assert_eq!(listener(&receipt, ADDRESS)["family"], "inet");
            assert!(receipt.at("/notes/0").as_str().unwrap().starts_with("QUIC: "), "{}", receipt.stdout);
            load.until_further(10);
        }
        let outcomes = load.stop();
        println!("{binary}, passed: {outcomes}");
        assert_answered(&outcomes, RELOADS);
        // H3_NO_ERROR: HAProxy's own soft stop.
        let ends: Vec<_> = outcomes.long_lived.keys().flatten().collect();
        assert_eq!(ends, ["0x100"], "{outcomes}");
    }
}

/// Measures HAProxy's own reload without passing. The losses at this rate are a matter of chance, so no number is asserted.
#[test]
#[ignore = "alone: its figures are for reading, to compare with those of the reloads"]
fn soft_stop_is_measured() {
    for binary in speaking_quic() {
        netns::enter();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("haproxy.cfg");
        config(&certificate(dir.path()), "quic4@127.0.0.1:8443", "").write(&file);
        let mut draining = Vec::new();
        let mut serving = binary.daemonize(&file, &[]).unwrap();
        let load = Load::to("127.0.0.1", 8443).long_lived(4).start();
        load.until_further(10);
        for _ in 0..RELOADS {
            let new = binary.daemonize(&file, &["-sf", &serving.process.pid.to_string()]).unwrap();
            draining.push(std::mem::replace(&mut serving, new));
            load.until_further(10);
        }
        println!("{binary}, -sf: {}", load.stop());
    }
}

#[test]
#[ignore = "alone: loads"]
fn unserved_clients_count_as_unanswered() {
    netns::enter();
    let load = Load::to("127.0.0.1", 8443).request_timeout(1).start();
    load.until_further(5);
    let outcomes = load.stop();
    assert!(outcomes.connections >= 5 && outcomes.unanswered == outcomes.connections, "{outcomes}");
}

/// HAProxy binds these listeners again; the receipt gives the reason.
#[test]
fn rebound_listener_is_unproven() {
    let cases = [
        ("quic6@[::1]:8443", "", "quic6@[::1]:8443", "", "udp@[::1]:8443", "add that word"),
        ("quic4@127.0.0.1:8443", "", "quic4@127.0.0.1:8443", "interface lo", "udp@127.0.0.1:8443%lo", "interface"),
        ("quic4@127.0.0.1:8443", "interface lo", "quic4@127.0.0.1:8443", "", ADDRESS, "interface"),
        ("quic4@127.0.0.1:8443", "", "quic4@0.0.0.0:8443", "", ADDRESS, "0.0.0.0"),
    ];
    for binary in speaking_quic() {
        for (before, options, after, changed, address, why) in cases {
            netns::enter();
            let dir = tempfile::tempdir().unwrap();
            let pem = certificate(dir.path());
            let rig = Rig::with(&config(&pem, before, options)).haproxy(&binary).start();
            rig.configure(&config(&pem, after, changed));
            let receipt = rig.reload();
            let found = listener(&receipt, address);
            assert_eq!((receipt.status, receipt.at("/result")), (3, &"unproven".into()), "{}", receipt.stdout);
            assert_eq!(found["rung"], "unproven", "{found}");
            assert!(found["why"].as_str().unwrap().contains(why), "{found}");
        }
    }
}

#[test]
fn unchanged_listener_is_passed() {
    for binary in speaking_quic() {
        for (bind, options) in
            [("quic6@[::1]:8443", "v6only"), ("quic4@127.0.0.1:8443", "interface lo"), ("quic6@:8443", "")]
        {
            netns::enter();
            let dir = tempfile::tempdir().unwrap();
            let rig = Rig::with(&config(&certificate(dir.path()), bind, options)).haproxy(&binary).start();
            assert_passed(&rig.reload(), 1);
            assert_passed(&rig.reload(), 1);
        }
    }
}
