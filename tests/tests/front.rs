//! Tests nginx before HAProxy on a unix socket, with the configuration of the guide's page.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::documents;
use reloader_tests::haproxy::{HaproxyBinary, default_program};
use reloader_tests::load::{Load, Running};
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;
use reloader_tests::tier;

const PAGE: &str = "docs/guide/front.md";
const WEB: &str = "127.0.0.1:80";
/// What nginx logs where it reaches no HAProxy.
const NOT_REACHED: &str = "connect() to unix:";

/// One of the page's files, with the paths of the directory.
fn page(beginning: &str, dir: &Path) -> String {
    let dir = dir.display();
    let text = documents::block(PAGE, beginning).text;
    let text = text.replace("/run/haproxy/front.sock", &format!("{dir}/front.sock"));
    let text = text.replace("/etc/haproxy/haproxy.cfg", &format!("{dir}/haproxy.cfg"));
    let text = text.replace("daemon off;", &format!("daemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx.log;"));
    text.replace(
        "\"-c\", \"/etc/nginx/front.conf\"",
        &format!("\"-e\", \"{dir}/nginx.log\", \"-c\", \"{dir}/front.conf\""),
    )
}

/// Writes the page's files and starts nothing.
fn prepare() -> Rig {
    netns::enter();
    let rig = Rig::with(&Config::new()).prepare();
    // nginx's workers run as a user of their own, and connect to the path.
    fs::set_permissions(rig.dir(), Permissions::from_mode(0o755)).unwrap();
    fs::write(rig.haproxy_cfg(), page("global\n", rig.dir())).unwrap();
    fs::write(rig.path("front.conf"), page("load_module", rig.dir())).unwrap();
    let own = fs::read_to_string(rig.path("reloader.toml")).unwrap();
    let (top, _) = own.split_once("[haproxy]").unwrap();
    let tables = page("[haproxy]\nconfig", rig.dir());
    let binary = format!("[haproxy]\nbinary = \"{}\"\n", default_program().display());
    fs::write(rig.path("reloader.toml"), format!("{top}{}", tables.replace("[haproxy]\n", &binary))).unwrap();
    rig
}

fn start() -> Rig {
    let mut rig = prepare();
    rig.start_daemon();
    rig
}

fn rate() -> u32 {
    if tier::is_all() { 2000 } else { 1000 }
}

fn load() -> Running {
    let load = Load::to([WEB]).rate(rate()).start();
    load.until_started(u64::from(rate()) / 2);
    load
}

fn log_of_nginx(rig: &Rig) -> String {
    fs::read_to_string(rig.path("nginx.log")).unwrap_or_default()
}

/// Both are passed their sockets, so nginx reaches a HAProxy at every moment.
#[test]
#[ignore = "alone: loads"]
fn reloads_of_both_lose_nothing() {
    let rig = start();
    let load = load();
    let reloads = tier::rounds(40);
    for number in 0..reloads {
        assert_passed(&rig.run(&["reload", "haproxy", "--json"]), 1);
        if number % 2 == 1 {
            assert_passed(&rig.run(&["reload", "nginx", "--json"]), 1);
        }
        load.until_further(u64::from(rate()) / 5);
    }
    let all = rig.run(&["reload", "--all", "--json"]).expect_status(0);
    assert_eq!((all.at("/0/service"), all.at("/1/service")), (&"haproxy".into(), &"nginx".into()));
    let outcomes = load.stop();
    println!("{reloads} reloads of HAProxy, {} of nginx: {outcomes}", reloads / 2);
    outcomes.assert_lossless();
    assert!(!log_of_nginx(&rig).contains(NOT_REACHED), "{}", log_of_nginx(&rig));
}

/// What was inside HAProxy is lost. All others wait in the queue of the unix socket.
#[test]
#[ignore = "alone: loads"]
fn killed_haproxy_refuses_no_client_of_nginx() {
    let rig = start();
    let load = load();
    for _ in 0..tier::rounds(10) {
        let serving = rig.serving().unwrap();
        serving.signal(Signal::SIGKILL);
        rig.until_replaced(serving);
        load.until_further(u64::from(rate()));
    }
    let outcomes = load.stop();
    println!("killed: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
    assert_eq!(lost.failed(), lost.empty + lost.reset_after_connect, "{outcomes}");
    let log = log_of_nginx(&rig);
    assert!(!log.contains(NOT_REACHED), "{log}");
}

/// The same load without the daemon sees losses: between two HAProxies nothing keeps the socket.
#[test]
#[ignore = "alone: loads"]
fn killed_haproxy_without_the_daemon_refuses_clients() {
    let rig = prepare();
    let binary = HaproxyBinary::at(default_program()).unwrap();
    let mut haproxy = binary.daemonize(&rig.haproxy_cfg(), &[]).unwrap();
    let _nginx = Nginx::start(&rig);
    let load = load();
    for _ in 0..tier::rounds(10) {
        haproxy.process.end();
        load.until_further(u64::from(rate()) / 10);
        haproxy = binary.daemonize(&rig.haproxy_cfg(), &[]).unwrap();
        load.until_further(u64::from(rate()));
    }
    let outcomes = load.stop();
    println!("killed, without the daemon: {outcomes}");
    assert!(outcomes.summary().failed() > 0, "{outcomes}");
    assert!(log_of_nginx(&rig).contains(NOT_REACHED), "{}", log_of_nginx(&rig));
}

/// An nginx that runs without reloader.
struct Nginx(Child);

impl Nginx {
    fn start(rig: &Rig) -> Nginx {
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg(rig.path("nginx.log")).arg("-c").arg(rig.path("front.conf"));
        let nginx = Nginx(command.spawn().expect("running nginx"));
        until(Duration::from_secs(20), "nginx to listen", || !listening(80).is_empty());
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        // The workers end with the master, which a killed one would leave behind.
        let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The page's last section: SYNs are held while the port goes from nginx to HAProxy.
#[test]
#[ignore = "alone: loads"]
fn port_moves_from_nginx_to_haproxy_without_loss() {
    let mut rig = start();
    let load = load();
    let toml = fs::read_to_string(rig.path("reloader.toml")).unwrap();
    let (before_nginx, _) = toml.split_once("[service.nginx]").unwrap();
    let cfg = fs::read_to_string(rig.haproxy_cfg()).unwrap();
    fs::write(rig.haproxy_cfg(), cfg.replace("    bind unix@", "    bind :80\n    bind unix@")).unwrap();
    // The rig starts the daemon, where the page has `systemctl start reloader`.
    let command =
        "\"$0\" --config \"$1\" stop && touch \"$2/stopped\" && until [ -e \"$2/started\" ]; do sleep 0.01; done";
    let (program, config, dir) = (reloader_tests::rig::binary(), rig.path("reloader.toml"), rig.dir().to_owned());
    let words = [program.as_path(), &config, &dir].map(|path| path.display().to_string());
    let mut arguments = vec!["hold", "--listen", "0.0.0.0:80", "--max", "20s", "--json", "--", "sh", "-c", command];
    arguments.extend(words.iter().map(String::as_str));
    let hold = rig.spawn(&arguments);
    until(Duration::from_secs(20), "the daemon to be stopped", || rig.path("stopped").exists());
    rig.until_daemon_ends();
    fs::write(rig.path("reloader.toml"), before_nginx).unwrap();
    rig.start_daemon();
    fs::write(rig.path("started"), "").unwrap();
    hold.wait().expect_status(0);
    load.until_further(u64::from(rate()) / 2);
    for _ in 0..3 {
        assert_passed(&rig.reload(), 2);
        load.until_further(u64::from(rate()) / 5);
    }
    let outcomes = load.stop();
    println!("moved: {outcomes}");
    outcomes.assert_lossless();
}

/// The kernel answers EAGAIN and does not try again: nginx closes the connection of its client.
#[test]
fn full_queue_of_the_unix_socket_is_counted_and_logged() {
    let mut rig = prepare();
    let cfg = fs::read_to_string(rig.haproxy_cfg()).unwrap();
    fs::write(rig.haproxy_cfg(), cfg.replace("frontend web\n", "frontend web\n    backlog 10\n")).unwrap();
    rig.start_daemon();
    let serving = rig.serving().unwrap();
    serving.stop();
    let load = |target: &str| Load::to([target]).connections(30).timeout(Duration::from_secs(1)).run().summary();
    let through_nginx = load(WEB);
    let path = rig.path("front.sock").display().to_string();
    let direct = load(&path);
    let probe = rig.run(&["probe", "--json"]);
    serving.signal(Signal::SIGCONT);
    let log = log_of_nginx(&rig);
    assert!(log.contains(NOT_REACHED) && log.contains("(11: Resource temporarily unavailable)"), "{log}");
    // The queue has room for one connection more than it was asked for.
    let (waited, closed) = (through_nginx.timeout, through_nginx.empty + through_nginx.reset_after_connect);
    assert_eq!((waited, closed), (11, 19), "{through_nginx}");
    let (queued, limit) = (probe.at("/backlogs/0/queued"), probe.at("/backlogs/0/limit"));
    assert_eq!((queued, limit), (&11.into(), &10.into()), "{}", probe.stdout);
    assert_eq!(direct.other.get("unix backlog full"), Some(&30), "{direct}");
}

/// The package of the module was removed: the nginx that runs has it still.
#[test]
fn nginx_without_its_module_is_refused_and_the_old_one_serves() {
    let rig = start();
    let front = fs::read_to_string(rig.path("front.conf")).unwrap();
    fs::write(rig.path("front.conf"), front.replace("ngx_stream_module.so", "ngx_gone_module.so")).unwrap();
    let check = rig.run(&["check"]).expect_status(78);
    assert!(
        check.stderr.contains("ngx_gone_module.so") && check.stderr.contains("service.nginx: "),
        "{}",
        check.stderr
    );
    let reload = rig.run(&["reload", "--all", "--json"]).expect_status(1);
    assert_eq!((reload.at("/0/result"), reload.at("/1/result")), (&"proven".into(), &"failed".into()));
    assert!(reload.at("/1/server-log").to_string().contains("ngx_gone_module.so"), "{}", reload.stdout);
    Load::to([WEB]).connections(50).run().assert_lossless();
    let toml = fs::read_to_string(rig.path("reloader.toml")).unwrap();
    fs::write(rig.path("reloader.toml"), toml.replace("/usr/sbin/nginx", "/usr/sbin/nginx-gone")).unwrap();
    let stderr = rig.run(&["check"]).expect_status(78).stderr;
    assert!(stderr.contains("service.nginx.start: /usr/sbin/nginx-gone: No such file"), "{stderr}");
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(20), "the program that is gone to be named", || {
        rig.run(&["reload", "nginx", "--json"]).expect_status(1).stdout.contains("/usr/sbin/nginx-gone")
    });
    Load::to([WEB]).connections(50).run().assert_lossless();
}

/// Each program accepts its own half.
#[test]
fn check_names_ends_that_disagree_on_the_proxy_header() {
    let rig = prepare();
    let check = || rig.run(&["check"]).expect_status(0).stderr;
    assert!(!check().contains("warning"), "{}", check());
    let (cfg, front) =
        (fs::read_to_string(rig.haproxy_cfg()).unwrap(), fs::read_to_string(rig.path("front.conf")).unwrap());
    fs::write(rig.haproxy_cfg(), cfg.replace(" accept-proxy", "")).unwrap();
    let text = check();
    let places =
        [format!("warning: {}:13 sends a PROXY header", rig.path("front.conf").display()), "haproxy.cfg:9)".into()];
    assert!(places.iter().all(|place| text.contains(place)) && text.contains("add `accept-proxy`"), "{text}");
    fs::write(rig.path("front.conf"), front.replace("proxy_protocol on;", "")).unwrap();
    assert!(!check().contains("warning"), "{}", check());
    fs::write(rig.haproxy_cfg(), &cfg).unwrap();
    let text = check();
    assert!(text.contains("sends no PROXY header to") && text.contains("add `proxy_protocol on;`"), "{text}");
    let chain = format!("{cfg}backend chain\n    server next unix@{}/front.sock\n", rig.dir().display());
    fs::write(rig.haproxy_cfg(), chain).unwrap();
    fs::write(rig.path("front.conf"), front).unwrap();
    let text = check();
    assert!(text.contains("haproxy.cfg:12 sends no PROXY header") && text.contains("add `send-proxy-v2`"), "{text}");
}
