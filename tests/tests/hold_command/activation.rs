//! Holds around socket activation: the socket stays, and another process takes it.

use reloader_tests::netns;

use reloader_tests::hold_rig::{HoldRig, WEB};

/// Plays init: keeps a listening socket, and on SIGHUP starts a new server with it.
const INIT: &str = r#"
use IO::Socket::IP; use POSIX ":sys_wait_h";
my $address = shift; my ($host, $port) = $address =~ /^(.*):(\d+)$/;
my $socket = IO::Socket::IP->new(LocalHost => $host, LocalPort => $port, Listen => 512, ReuseAddr => 1) or die;
sub server { my $pid = fork; return $pid if $pid; $SIG{HUP} = "DEFAULT"; while (1) { my $c = $socket->accept; close $c if $c } }
my $server = server(); my $again = 0; $SIG{HUP} = sub { $again = 1 };
my $reloader = fork; unless ($reloader) { close $socket; exec @ARGV or exit 99 }
while (1) {
    my $pid = waitpid(-1, WNOHANG);
    if ($pid == $reloader) { my $status = $? >> 8; kill "KILL", $server; exit $status }
    if ($again) { $again = 0; kill "KILL", $server; waitpid($server, 0); $server = server() }
    select undef, undef, undef, 0.01;
}"#;

/// The inode stays the same, and init still has the socket, but the server is another process.
#[test]
fn socket_kept_by_its_activator_counts_as_passed() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let answer = hold_rig.rig.run_under(
        &["unshare", "--pid", "--fork", "--mount-proc", "perl", "-e", INIT, WEB],
        &["hold", "--json", "--max", "1h", "--listen", WEB, "--", "sh", "-c", "kill -HUP 1"],
    );
    let answer = answer.expect_status(0);
    assert_eq!((answer.at("/result"), answer.at("/listeners/0/rung")), (&"proven".into(), &"passed".into()));
    assert!(answer.at("/listeners/0/inode-before").is_u64(), "{}", answer.stdout);
    assert_eq!(answer.at("/listeners/0/inode-before"), answer.at("/listeners/0/inode-after"));
    hold_rig.assert_gone();
}
