//! Tests the messages and exit statuses of `prove` where there is nothing to prove.

use std::fs;

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};

use super::scene::{Scene, UNMEASURED, WEB, prove, until_measured};

/// Runs `prove`, which must end with this status and these words on stderr.
#[track_caller]
fn assert_refused(rig: &Rig, arguments: &[&str], status: i32, words: &[&str]) {
    let answer = prove(rig, arguments).expect_status(status);
    for word in words {
        assert!(answer.stderr.contains(word), "{word:?} is not in: {}", answer.stderr);
    }
    assert_eq!(answer.stdout, "", "a message is on stdout");
}

#[test]
fn invalid_arguments_are_refused_with_a_remedy() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).prepare();
    let invalid: [(&[&str], &[&str]); 14] = [
        (&["--target", "127.0.0.1"], &["--target 127.0.0.1", "ADDR:PORT"]),
        (&["--target", ":80"], &["127.0.0.1:80"]),
        (&["--target", "::1:80"], &["[ADDR]:PORT"]),
        (&["--target", "https://localhost/"], &["not a URL"]),
        (&["--target", "no-such-host.invalid:80"], &["no-such-host.invalid:80", "cannot be resolved"]),
        (&["--reloads", "0"], &["nothing would be proven"]),
        (&["--rate", "0"], &["no connection"]),
        (&["--interval", "2"], &["250ms"]),
        (&["--timeout", "0s"], &["10s"]),
        (&["--keep-alive"], &["--http"]),
        (&["--http=health"], &["begins with `/`"]),
        (&["--http", "--keep-alive=0"], &["at least one"]),
        (&["--report", "/dev/null"], &["/dev/null", "not a regular file"]),
        (&["--report", "/nowhere/report.html"], &["/nowhere", "No such file"]),
    ];
    for (arguments, words) in invalid {
        assert_refused(&rig, &[arguments, &["--reload-command", "true"]].concat(), 2, words);
    }
    assert_refused(&rig, &["--reload-command", " "], 2, &["is empty"]);
    assert_refused(&rig, &["--service", "web", "--reload-command", "true"], 2, &["cannot be used with"]);
}

#[test]
fn prove_without_a_daemon_or_a_command_fails() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).prepare();
    assert_refused(&rig, &[], 69, &["no daemon answers", "--reload-command"]);
}

#[test]
fn target_the_daemon_does_not_serve_is_doubted() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let rig = Rig::with(&Config::web(WEB)).start();
    let target = server.address.to_string();
    let prove_at = |target: &str| {
        let answer = prove(&rig, &["--target", target, "--http", "--reloads", "1", "--rate", "20", "--json"]);
        assert!(answer.at("/target") == target, "{}{}", answer.stdout, answer.stderr);
        answer
    };
    let (elsewhere, served) = (prove_at(&target), prove_at(WEB));
    let doubt = elsewhere.at("/doubt").as_str().expect("a doubt");
    assert!(doubt.contains(&format!("serves nothing at {target}")) && elsewhere.stderr.contains(doubt), "{doubt}");
    assert!(served.stdout.contains("\"doubt\":null"), "{}", served.stdout);
}

#[test]
fn unserved_target_is_not_reloaded() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).prepare();
    let command = format!("touch {}", rig.path("reloaded").display());
    assert_refused(&rig, &["--reload-command", &command], 1, &["is not served", "refused", "Nothing was reloaded"]);
    let answer = prove(&rig, &["--json", "--reload-command", &command]).expect_status(1);
    assert_eq!((answer.at("/result"), answer.at("/total")), (&"unserved".into(), &serde_json::Value::Null));
    for (manner, arguments, words) in [
        (Reaction::Unavailable, &["--http"][..], "503"),
        (Reaction::Reply, &["--tls"], "--tls"),
        (Reaction::Silent, &["--timeout", "300ms"], "--http or --tls"),
    ] {
        let server = Server::start("127.0.0.1:0", manner);
        let target = server.address.to_string();
        assert_refused(&rig, &[arguments, &["--target", &target, "--reload-command", &command]].concat(), 1, &[words]);
    }
    let server = Server::start("127.0.0.1:0", Reaction::Reply);
    let target = server.address.to_string();
    let keep = ["--http", "--keep-alive", "--target", &target, "--reload-command", &command];
    assert_refused(&rig, &keep, 2, &["leave out --keep-alive"]);
    assert!(!rig.path("reloaded").exists());
}

#[test]
#[ignore = "alone: loads"]
fn failing_reload_command_is_reported_with_its_output_and_not_retried() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let tried = scene.rig.path("tried");
    let command = format!("echo x >> {}; echo it is broken >&2; exit 7", tried.display());
    let prove = |command: &str| {
        // An attempt that measured nothing may still have run the command.
        let _ = fs::remove_file(&tried);
        scene.prove(&["--http", "--rate", "50", "--reload-command", command])
    };
    let answer = until_measured(|| prove(&command)).expect_status(1);
    assert!(
        answer.stderr.contains("exited with status 7") && answer.stderr.contains("  it is broken\n"),
        "{}",
        answer.stderr
    );
    assert_eq!(fs::read_to_string(&tried).unwrap(), "x\n");
    let missing = until_measured(|| prove("no-such-command")).expect_status(1);
    assert!(missing.stderr.contains("not found"), "{}", missing.stderr);
}

#[test]
#[ignore = "alone: loads"]
fn refused_reload_is_reported_with_the_output_of_the_server() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    fs::write(rig.haproxy_cfg(), "frontend web\n    bnid 127.0.0.1:8080\n").unwrap();
    let answer = until_measured(|| prove(&rig, &["--http", "--rate", "50"])).expect_status(1);
    assert!(answer.stderr.contains("'bnid'"), "{}", answer.stderr);
}

#[test]
#[ignore = "alone: loads"]
fn rate_beyond_this_machine_gives_no_figures() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let report = scene.report().display().to_string();
    let arguments = ["--http", "--rate", "4000000", "--reloads", "2", "--reload-command", "true", "--report", &report];
    assert_refused(&scene.rig, &arguments, UNMEASURED, &["unmeasured: the generator fell behind", "--rate"]);
    assert!(!scene.report().exists());
    let answer = scene.prove(&[&arguments[..], &["--json"]].concat()).expect_status(UNMEASURED);
    assert_eq!(answer.at("/result"), "unmeasured");
    for figure in ["/total", "/lost", "/late", "/latency-us/p50", "/schedule-us/late-max", "/reloads"] {
        assert!(answer.at(figure).is_null(), "{figure}: {}", answer.stdout);
    }
}

#[test]
fn unix_socket_target_has_no_syn_figures() {
    netns::enter();
    let rig = Rig::with(&Config::new()).prepare();
    let path = rig.path("web.sock").display().to_string();
    let scene = Scene::start(&Config::web(&format!("unix@{path}")));
    let arguments =
        ["--target", &path, "--http", "--rate", "50", "--reloads", "1", "--reload-command", "true", "--json"];
    let answer = until_measured(|| scene.prove(&arguments)).expect_status(0);
    assert!(answer.at("/late/syn-resent").is_null() && answer.at("/segments-resent").is_null(), "{}", answer.stdout);
    assert_eq!(answer.at("/late/slow").as_u64().map(|_| ()), Some(()));
}
