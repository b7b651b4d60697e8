//! Tests that `prove` finds the losses of ways to reload that lose connections.

use std::fs;

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::rig::Answer;

use super::scene::{Scene, WEB, until_lost, until_lost_as};

#[test]
#[ignore = "alone: loads"]
fn restart_loses_connections_and_the_report_shows_them() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let (command, report) = (scene.restart(), scene.report().display().to_string());
    let arguments = ["--http", "--rate", "400", "--reloads", "6", "--interval", "300ms", "--json"];
    let with = [&arguments[..], &["--reload-command", &command, "--report", &report]].concat();
    let answer = until_lost(|| scene.prove(&with));
    assert_eq!((answer.at("/result"), answer.at("/cut-short")), (&"lost".into(), &false.into()));
    assert!(answer.at("/lost/refused").as_u64() > Some(0), "{}", answer.stdout);
    let of_reloads = answer.at("/reloads").as_array().unwrap().iter().map(|reload| reload["lost"].as_u64().unwrap());
    assert_eq!(Some(of_reloads.sum::<u64>()), answer.at("/lost/total").as_u64(), "a loss belongs to no reload");
    let total = answer.at("/served").as_u64().unwrap() + answer.at("/lost/total").as_u64().unwrap();
    assert_eq!(answer.at("/total").as_u64(), Some(total));
    let html = fs::read_to_string(scene.report()).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("class=\"loss\""), "the report shows no loss");
    assert!(html.contains("kill -9 $(cat "), "the report does not name the command");
    let others = fs::read_dir(scene.rig.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = others.filter(|name| name.to_string_lossy().starts_with(".reloader-prove")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
#[ignore = "alone: loads"]
fn soft_stop_without_reuseport_loses_connections() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB).global("noreuseport"));
    let command = scene.soft_stop();
    let arguments = ["--http", "--rate", "500", "--reloads", "8", "--interval", "200ms"];
    let answer = until_lost(|| scene.prove(&[&arguments[..], &["--reload-command", &command]].concat()));
    assert!(answer.stdout.starts_with("lost: "), "{}", answer.stdout);
    assert!(answer.stdout.contains(" refused"), "{}", answer.stdout);
}

#[test]
#[ignore = "alone: loads"]
fn without_http_a_lost_established_connection_is_detected() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let command = scene.restart();
    let arguments = ["--rate", "400", "--reloads", "6", "--interval", "300ms", "--json"];
    // A restart also refuses connections. Those were never established and do not count here.
    let reset = |answer: &Answer| answer.at("/lost/reset").as_u64() > Some(0);
    let answer = until_lost_as(reset, || scene.prove(&[&arguments[..], &["--reload-command", &command]].concat()));
    assert_eq!(answer.at("/protocol"), "tcp");
}

#[test]
#[ignore = "alone: loads"]
fn kept_connections_cut_during_a_request_are_detected() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let command = scene.restart();
    let arguments = ["--http", "--keep-alive=10", "--rate", "400", "--reloads", "6", "--interval", "300ms", "--json"];
    let cut = |answer: &Answer| ["/lost/reset", "/lost/empty"].iter().any(|how| answer.at(how).as_u64() > Some(0));
    let answer = until_lost_as(cut, || scene.prove(&[&arguments[..], &["--reload-command", &command]].concat()));
    assert_eq!((answer.at("/unit"), answer.at("/keep-alive")), (&"requests".into(), &10.into()));
    assert!(answer.at("/connections").as_u64() < answer.at("/total").as_u64(), "{}", answer.stdout);
}
