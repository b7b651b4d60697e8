//! The quickstart, and the pages about units, in a Debian with its own HAProxy: from the first command to the last.

use reloader_tests::booted::{Machine, Setup};
use reloader_tests::rig::Answer;

use super::runner::{Shell, run};
use super::{HOLDING, Place, QUICKSTART, README, SYSTEMD, TROUBLESHOOTING, UPGRADING};

/// Where the project's sources would be; the commands are run there.
const SOURCES: &str = "/usr/src/reloader";

/// What the quickstart asks for: Debian's configuration, and a frontend.
const CONFIG: &str = "global\n    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n    \
                      stats socket /run/haproxy/admin.sock mode 660 level admin\ndefaults\n    mode http\n    timeout connect 5s\n    \
                      timeout client 50s\n    timeout server 50s\nfrontend web\n    bind :80\n    \
                      http-request return status 200 content-type text/plain string ok\n";

/// What the page shows.
const ONE_TOML: &str = "control-socket = \"/run/reloader/one/control.sock\"\nruntime-dir = \"/run/reloader/one\"\n\
                        state-dir = \"/var/lib/reloader/one\"\n[haproxy]\nconfig = [\"/etc/haproxy/one.cfg\"]\n";

/// A server that binds its port itself.
const APP: &str = "[Service]\nExecStart=/usr/bin/perl -MIO::Socket::INET -e \"\
                   $$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die; \
                   while ($$c = $$s->accept) { close $$c }\"\n";

const UNDO: &str = "# reloader takeover haproxy.service --undo";

/// The page begins where a new configuration is in its place.
const CHECK: &str = "# reloader check\nConfiguration";

/// An instance of the template unit.
const INSTANCE: &str = "# install -m 644 packaging/systemd/reloader@.service";

/// In this order: each begins where the one before has ended.
pub(super) const BLOCKS: &[Place] = &[
    (README, "$ sudo install"),
    (QUICKSTART, "# install"),
    (QUICKSTART, "# reloader check"),
    (QUICKSTART, "# reloader takeover haproxy.service --dry-run"),
    (QUICKSTART, "# reloader reload"),
    (QUICKSTART, "# echo 'frobnicate'"),
    (QUICKSTART, "# reloader history"),
    (QUICKSTART, "# reloader prove"),
    (TROUBLESHOOTING, "# reloader status"),
    (UPGRADING, CHECK),
    (UPGRADING, "# ls /var/lib"),
    (UPGRADING, "# install reloader"),
    (UPGRADING, "# reloader check\n# systemctl"),
    (QUICKSTART, UNDO),
    (SYSTEMD, "# install target/release/reloader /usr/local/bin/\n# reloader takeover"),
    (UPGRADING, UNDO),
    (SYSTEMD, UNDO),
    (SYSTEMD, "# install target/release/reloader /usr/local/bin/\n# install -m 644"),
    (TROUBLESHOOTING, "# systemctl restart reloader"),
    (SYSTEMD, INSTANCE),
    (HOLDING, "$ sudo reloader hold"),
];

impl Shell for Machine {
    fn run(&self, command: &str) -> Answer {
        Machine::run(self, &["sh", "-c", &format!("exec 2>&1; cd {SOURCES}; {command}")])
    }
}

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn commands_of_the_systemd_pages_do_what_they_show() {
    let program = format!("{SOURCES}/target/release/reloader");
    let unit = include_str!("../../../packaging/systemd/reloader.service");
    let setup = Setup::default().program_at(&program).file("/etc/haproxy/haproxy.cfg", CONFIG);
    let setup = setup.program("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    let setup = setup.file(&format!("{SOURCES}/packaging/systemd/reloader.service"), unit);
    let template = include_str!("../../../packaging/systemd/reloader@.service");
    let setup = setup.file(&format!("{SOURCES}/packaging/systemd/reloader@.service"), template);
    let setup = setup.file("/etc/systemd/system/app.service", APP).link(&format!("{SOURCES}/reloader"), &program);
    let machine = setup.boot();
    machine.enter_network();
    machine.systemctl(&["start", "app"]);
    for place in BLOCKS {
        println!("{place:?}");
        if *place == (SYSTEMD, UNDO) {
            machine.reloader(&["takeover"]).expect_status(0);
        }
        if *place == (UPGRADING, CHECK) {
            machine.write("/etc/haproxy/haproxy.cfg", format!("{CONFIG}    timeout http-request 9s\n"));
        }
        if *place == (SYSTEMD, INSTANCE) {
            machine.write("/etc/reloader/one.toml", ONE_TOML);
            machine.write("/etc/haproxy/one.cfg", CONFIG.replace(":80", ":81").replace("admin.sock", "one.sock"));
        }
        run(&machine, *place);
    }
}
