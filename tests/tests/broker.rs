//! Checks that the broker answers only the generation that is being started.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{holders, listening};
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";
const GET_SOCKETS: &[u8] = b"_getsocks\n";

#[test]
fn broker_offers_nothing_while_no_generation_starts() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    assert_eq!(answer(&rig, GET_SOCKETS), 0);
    rig.reload().expect_status(0);
    assert_eq!(answer(&rig, GET_SOCKETS), 0);
    assert!(rig.log().contains("no generation is being started"), "{}", rig.log());
}

#[test]
fn foreign_processes_get_nothing_and_do_not_disturb_a_start() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    wrapper.set(Behaviour::WaitForChange);
    let reload = rig.spawn(&["reload", "--json"]);
    rig.until_generation_starts();

    assert_eq!(answer(&rig, GET_SOCKETS), 0);
    assert_eq!(answer(&rig, b"show info\n\0\xff"), 0);
    let _silent: Vec<UnixStream> = (0..50).map(|_| connect(&rig)).collect();
    let unfinished: Vec<UnixStream> = (0..50).map(|_| request(&rig, b"_getso")).collect();
    drop(unfinished);
    assert!(rig.log().contains("does not belong to the generation being started"), "{}", rig.log());
    assert!(!holders(&listening(8080)).contains(&(std::process::id() as i32)));

    wrapper.set(Behaviour::Normal);
    let receipt = reload.wait().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/listeners/0/rung")), (&"proven".into(), &"passed".into()));
    assert_eq!(*receipt.at("/notes"), serde_json::json!([]));
    load.stop().assert_lossless();
}

/// A process of the generation itself sends a malformed request and breaks off a transfer: HAProxy still gets its
/// sockets.
#[test]
fn malformed_requests_of_a_child_do_not_keep_haproxy_from_its_sockets() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let load = Load::to([WEB]).start();
    wrapper.set(Behaviour::MalformedRequests);
    let receipt = rig.reload().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/listeners/0/rung")), (&"proven".into(), &"passed".into()));
    let log = rig.log();
    assert!(log.contains("did not ask `_getsocks`") && log.matches("transfer to process").count() >= 2, "{log}");
    load.stop().assert_lossless();
}

/// A process of the generation keeps a transfer open: the start fails, and the old generation serves on.
#[test]
fn unfinished_transfer_fails_the_start_and_the_old_generation_serves() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let load = Load::to([WEB]).start();
    let serving = rig.serving();
    wrapper.set(Behaviour::UnfinishedTransfer);
    rig.reload().expect_status(1);
    assert_eq!(rig.serving(), serving);
    wrapper.set(Behaviour::Normal);
    assert_eq!(*rig.reload().expect_status(0).at("/result"), "proven");
    load.stop().assert_lossless();
}

fn connect(rig: &Rig) -> UnixStream {
    UnixStream::connect(rig.path("run/broker/getsocks.sock")).expect("the broker's socket")
}

fn request(rig: &Rig, request: &[u8]) -> UnixStream {
    let mut stream = connect(rig);
    // The broker may have closed the connection already.
    let _ = stream.write_all(request);
    stream
}

/// The number of bytes that the broker sends until it closes the connection.
fn answer(rig: &Rig, request: &[u8]) -> usize {
    let mut stream = self::request(rig, request);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
            panic!("the broker does not close the connection: {error}")
        }
        _ => answer.len(),
    }
}
