//! Runs plain servers that know nothing of reloader, and a script that stops one and starts the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::poll::{satisfied_within, until};
use crate::process::Process;
use crate::sockets::listening;
use crate::versions::nginx::default_program;

/// A server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A dozen lines of perl, which start quickly. It listens on several addresses. On `[::]` it listens for both
    /// families, unless `0.0.0.0` is among them.
    Perl,
    /// `python3 -m http.server`, whose accept queue has room for five connections.
    Python,
    /// nginx with one worker.
    Nginx,
    /// A server that needs a second until it listens.
    Slow,
}

/// A server in its own directory, with `service`, the script: see [`Service::command`]. When it is dropped, the server
/// is stopped.
pub struct Service {
    dir: PathBuf,
    ports: Vec<u16>,
}

impl Service {
    /// Writes the files and starts nothing. The directory's path is on the command line of every process that is
    /// started.
    pub fn new(kind: Kind, dir: &Path, addresses: &[&str]) -> Service {
        let dir = dir.join("service");
        fs::create_dir_all(dir.join("www")).expect("a directory");
        fs::write(dir.join("server"), server(kind, &dir, addresses)).expect("writing");
        fs::write(dir.join("nginx.conf"), nginx(&dir, addresses)).expect("writing");
        fs::write(dir.join("service"), SCRIPT.replace("DIR", &dir.display().to_string())).expect("writing");
        let port = |address: &&str| address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Service { dir, ports: addresses.iter().map(|address| port(address).expect("a port")).collect() }
    }

    /// Like [`new`](Self::new), and starts the server.
    pub fn started(kind: Kind, dir: &Path, addresses: &[&str]) -> Service {
        let service = Service::new(kind, dir, addresses);
        service.run("start");
        service.until_listening();
        service
    }

    /// The words `sh SCRIPT VERB`. The verbs are `start`, `stop`, `restart`, `later` (a restart that begins when the
    /// command itself has ended) and `become` (stop the old server, and become the new one).
    pub fn command(&self, verb: &str) -> [String; 3] {
        ["sh".into(), self.dir.join("service").display().to_string(), verb.into()]
    }

    /// Runs the script to its end.
    pub fn run(&self, verb: &str) {
        let [shell, script, verb] = self.command(verb);
        let status = Command::new(shell).args([script, verb]).stdin(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "the service's script failed");
    }

    /// Waits until each port has a listener.
    #[track_caller]
    pub fn until_listening(&self) {
        until(Duration::from_secs(20), "the server to listen", || self.listens());
    }

    fn listens(&self) -> bool {
        self.ports.iter().all(|port| !listening(*port).is_empty())
    }

    /// The process of the server that was started last.
    pub fn process(&self) -> Process {
        let text = fs::read_to_string(self.dir.join("pid")).expect("a server was started");
        Process::with_pid(text.trim().parse().expect("a number")).expect("the server runs")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let [shell, script, verb] = self.command("stop");
        let _ = Command::new(shell).args([script, verb]).stdin(Stdio::null()).status();
        satisfied_within(Duration::from_secs(5), || !self.listens());
    }
}

fn server(kind: Kind, dir: &Path, addresses: &[&str]) -> String {
    let dir = dir.display();
    let (host, port) = addresses[0].rsplit_once(':').expect("an address");
    match kind {
        Kind::Perl => format!("exec perl -e '{PERL}' {dir} {}\n", addresses.join(" ")),
        Kind::Python => format!("exec /usr/bin/python3 -m http.server {port} --bind {host} --directory {dir}/www\n"),
        Kind::Nginx => format!("exec {} -e {dir}/nginx.log -c {dir}/nginx.conf\n", default_program().display()),
        Kind::Slow => format!("exec /usr/bin/python3 -c '{SLOW}' {dir}/www {host} {port}\n"),
    }
}

fn nginx(dir: &Path, addresses: &[&str]) -> String {
    let listen: String = addresses.iter().map(|address| format!("listen {address};")).collect();
    format!(
        "daemon off; user root; worker_processes 1; pid {}/nginx.pid; events {{ worker_connections 1000; }}\n\
         http {{ access_log off; server {{ {listen} location / {{ return 200 ok; }} }} }}\n",
        dir.display()
    )
}

const PERL: &str = r#"
use IO::Socket::IP; use IO::Select; $SIG{PIPE} = "IGNORE"; shift;
$all = IO::Select->new(map {
    my ($host, $port) = /^\[?(.*?)\]?:(\d+)$/;
    my $v6only = grep { $_ eq "0.0.0.0:$port" } @ARGV;
    IO::Socket::IP->new(LocalHost => $host, LocalPort => $port, Listen => 512, ReuseAddr => 1, V6Only => $v6only) or die "$_: $@"
} @ARGV);
while (1) { for my $ready ($all->can_read) {
    my $client = $ready->accept or next;
    sysread $client, $request, 999;
    print $client "HTTP/1.0 200 OK\r\n\r\nok\n";
    close $client;
} }"#;

const SLOW: &str = r#"
import functools, http.server, sys, time
time.sleep(1)
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
Server((sys.argv[2], int(sys.argv[3])), handler).serve_forever()
"#;

/// A zombie counts as gone: it has closed its sockets, and its parent may wait for it much later.
const SCRIPT: &str = r#"
gone() { ! [ -e /proc/$1 ] || grep -q '^State:.*Z' /proc/$1/status 2>/dev/null; }
until_gone() { until gone $1; do sleep 0.005; done; }
stop() {
    [ -e DIR/pid ] || return 0
    kill -TERM $(cat DIR/pid) 2>/dev/null; kill -CONT $(cat DIR/pid) 2>/dev/null
    until_gone $(cat DIR/pid)
}
start() {
    setsid sh DIR/server </dev/null >>DIR/log 2>&1 &
    echo $! >DIR/pid
}
case $1 in
start) start ;;
stop) stop ;;
restart) stop; start ;;
later) (until_gone $$; stop; start) </dev/null >>DIR/log 2>&1 & ;;
become) stop; echo $$ >DIR/pid; . DIR/server ;;
esac
"#;
