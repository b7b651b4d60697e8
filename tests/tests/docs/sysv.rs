//! The page about SysV init, in a Debian with sysvinit whose HAProxy was started by its own script.

use reloader_tests::booted::{Setup, SysVinit};
use reloader_tests::config::Config;
use reloader_tests::documents;
use reloader_tests::rig::Answer;

use super::runner::{Shell, run};
use super::{Place, SYSV};

/// Where the page's files are; the commands are run there.
const HOME: &str = "/root";

pub(super) const BLOCKS: &[Place] =
    &[(SYSV, "# install reloader-x86_64-linux"), (SYSV, "# reloader reload --json"), SETTINGS];

/// Sourced by the script: what it sets is a matter of the machine.
const SETTINGS: Place = (SYSV, "# RELOADER=");

impl Shell for SysVinit {
    fn run(&self, command: &str) -> Answer {
        SysVinit::run(self, &["sh", "-c", &format!("exec 2>&1; cd {HOME}; {command}")])
    }
}

#[test]
#[ignore = "alone: boots a machine"]
fn commands_of_the_sysv_page_do_what_they_show() {
    let script = include_str!("../../../packaging/sysv/reloader");
    let config = Config::new().global("stats socket /run/haproxy/admin.sock mode 660 level admin");
    let config = config.frontend("web", &["127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8002"]);
    let setup = Setup::default().haproxy(&config).program_at(&format!("{HOME}/reloader-x86_64-linux"));
    let machine = SysVinit::boot(setup.program(&format!("{HOME}/packaging/sysv/reloader"), script));
    machine.enter_network();
    for place in BLOCKS {
        println!("{place:?}");
        if *place == SETTINGS {
            machine.write("/etc/default/reloader", documents::block(SETTINGS.0, SETTINGS.1).text);
            machine.run(&["sh", "-n", "/etc/default/reloader"]).expect_status(0);
        } else {
            run(&machine, *place);
        }
    }
}
