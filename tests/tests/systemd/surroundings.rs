//! Tests the takeover of haproxy.service together with what operators have around it: commands, files of options, hooks, other units.
//!
//! A unit that a socket unit starts is refused: `takeover::unit_with_a_socket_unit_is_refused_and_not_touched`.

use reloader_tests::booted::Machine;
use reloader_tests::config::Config;
use reloader_tests::haproxy::runtime;

use super::scene::{Scene, UNIT, WEB, config};
use super::sequence::{Sequence, get, takeover};
use crate::debian::BACKEND;

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn stock_unit_is_taken_over_rebooted_and_handed_back() {
    let mut scene = Scene::boot(Machine::setup(), UNIT);
    Sequence::with("stock unit")
        .fate("ExecStart=/usr/sbin/haproxy -Ws", "replaced")
        .fate("ExecReload=/bin/kill -USR2 $MAINPID", "replaced")
        .fate("EnvironmentFile=-/etc/default/haproxy", "carried")
        .run(&mut scene);
}

/// The map is in /run, which a reboot empties. The state of the servers is dumped before each reload, and read by the next HAProxy.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn own_commands_make_what_the_configuration_needs() {
    const OWN: &str = "[Service]\nExecStartPre=/usr/local/bin/make-map\nExecReload=\nExecReload=/usr/local/bin/dump-state\n\
        ExecReload=/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS\nExecReload=/bin/kill -USR2 $MAINPID\n";
    const MAKE_MAP: &str =
        "#!/bin/sh\nset -e\nmkdir -p /run/haproxy-maps\necho site ok > /run/haproxy-maps/sites.map\n";
    const DUMP_STATE: &str = "#!/usr/bin/perl\nuse IO::Socket::UNIX;\n\
        my $haproxy = IO::Socket::UNIX->new('/run/haproxy/admin.sock') or die \"no answer: $!\";\n\
        print $haproxy \"show servers state\\n\";\nopen my $file, '>', '/var/lib/haproxy.state' or die $!;\n\
        print $file $_ while <$haproxy>;\n";
    const MAPPED: &str = "127.0.0.1:8002";
    let config = config().global("server-state-file /var/lib/haproxy.state").section(&format!(
        "frontend mapped\n    bind {MAPPED}\n    http-request return status 200 content-type text/plain \
         lf-string %[str(site),map(/run/haproxy-maps/sites.map,none)]\n\
         backend spare\n    load-server-state-from-file global\n    server one {BACKEND}\n"
    ));
    let setup = Machine::setup()
        .file("/etc/systemd/system/haproxy.service.d/own.conf", OWN)
        .program("/usr/local/bin/make-map", MAKE_MAP)
        .program("/usr/local/bin/dump-state", DUMP_STATE)
        .haproxy(&config);
    let mut scene = Scene::boot_with(setup, UNIT);
    ask(&scene, "set server spare/one state maint");
    scene.reload();
    Sequence::with("own ExecStartPre= and ExecReload=")
        .fate("ExecStartPre=/usr/local/bin/make-map", "carried")
        .fate("ExecReload=/usr/local/bin/dump-state", "carried")
        .fate("ExecReload=/usr/sbin/haproxy", "replaced")
        .target(MAPPED)
        .effects(|scene, _| {
            assert_eq!(get(MAPPED), "ok");
            let state = ask(scene, "show servers state spare");
            let fields: Vec<&str> = state.lines().nth(2).expect("a server").split(' ').collect();
            assert_eq!((fields[3], fields[6]), ("one", "1"), "the server is not in maintenance any more: {state}");
        })
        .run(&mut scene);
}

/// Each edit of the file and of the options is in force after the next reload, and after a reboot.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn edited_options_are_in_force_after_the_next_reload() {
    let mut scene = Scene::boot(Machine::setup(), UNIT);
    Sequence::with("CONFIG= and EXTRAOPTS= edited")
        .fate("EnvironmentFile=-/etc/default/haproxy", "carried")
        .reload(|scene, number| {
            let file = format!("/etc/haproxy/edited-{number}.cfg");
            scene.machine.write(&file, config());
            let options = format!("CONFIG=\"{file}\"\nEXTRAOPTS=\"-S /run/haproxy-master.sock -m {}\"\n", 300 + number);
            scene.machine.write("/etc/default/haproxy", options);
            scene.reload();
        })
        .effects(|scene, pid| {
            let options = scene.read("/etc/default/haproxy");
            let value = |name: &str| options.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let limit = value("EXTRAOPTS=").split_once("-m ").map(|(_, rest)| rest.trim_matches('"'));
            let file = Some(value("CONFIG=").trim_matches('"')).filter(|file| !file.is_empty());
            let words = scene.read(&format!("/proc/{pid}/cmdline"));
            let words: Vec<&str> = words.split('\0').collect();
            let in_force = |option: &str| words.iter().position(|word| *word == option).map(|index| words[index + 1]);
            let file = file.unwrap_or("/etc/haproxy/haproxy.cfg");
            assert_eq!((in_force("-m"), in_force("-f")), (limit, Some(file)), "{words:?}");
        })
        .run(&mut scene);
}

/// A reload reads the files that have been added to the directory.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn files_added_to_a_directory_are_read_by_the_next_reload() {
    const OPTIONS: &str = "EXTRAOPTS=\"-S /run/haproxy-master.sock -f /etc/haproxy/conf.d\"\n";
    let name = |number: usize| format!("/etc/haproxy/conf.d/site-{number:02}.cfg");
    let site = |number: usize| {
        format!(
            "frontend site{number}\n    bind 127.0.0.1:{}\n    http-request return status 200 content-type text/plain string ok\n",
            8100 + number
        )
    };
    let setup = Machine::setup().file("/etc/default/haproxy", OPTIONS).file(&name(50), site(50)).haproxy(&config());
    let mut scene = Scene::boot_with(setup, UNIT);
    Sequence::with("-f /etc/haproxy/conf.d")
        .fate("EnvironmentFile=-/etc/default/haproxy", "carried")
        .target("127.0.0.1:8150")
        .reload(move |scene, number| {
            scene.machine.write(&name(number), site(number));
            scene.reload();
        })
        .effects(|scene, _| {
            for file in std::fs::read_dir(scene.machine.inside("/etc/haproxy/conf.d")).unwrap() {
                let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
                let address = text.lines().find_map(|line| line.trim().strip_prefix("bind ")).unwrap();
                assert_eq!(get(address), "ok", "{address}");
            }
        })
        .run(&mut scene);
}

/// Two daemons at once, each for one HAProxy. The second unit is an instance of a template.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn second_unit_is_taken_over_with_a_configuration_of_its_own() {
    const SECOND: &str = "haproxy@b.service";
    const TEMPLATE: &str = "[Unit]\nAfter=network.target\n[Service]\nType=notify\nKillMode=mixed\nRestart=always\nSuccessExitStatus=143\n\
        ExecStart=/usr/sbin/haproxy -Ws -f /etc/haproxy/%i.cfg -p /run/haproxy-%i.pid\n\
        ExecReload=/usr/sbin/haproxy -Ws -f /etc/haproxy/%i.cfg -c -q\nExecReload=/bin/kill -USR2 $MAINPID\n";
    const TOML: &str = "control-socket = \"/run/reloader/b/control.sock\"\nruntime-dir = \"/run/reloader/b\"\n\
        state-dir = \"/var/lib/reloader/b\"\n[haproxy]\nconfig = [\"/etc/haproxy/b.cfg\"]\npid-file = \"/run/haproxy-b.pid\"\n";
    const WEB_B: &str = "127.0.0.1:8010";
    let second = Config::new().global("stats socket /run/haproxy/b.sock mode 660 level admin").frontend("b", &[WEB_B]);
    let setup = Machine::setup()
        .file("/etc/systemd/system/haproxy@.service", TEMPLATE)
        .link("/etc/systemd/system/multi-user.target.wants/haproxy@b.service", "/etc/systemd/system/haproxy@.service")
        .file("/etc/haproxy/b.cfg", second)
        .file("/etc/reloader/b.toml", TOML)
        .haproxy(&config());
    let mut scene = Scene::boot_with(setup, UNIT);
    takeover(&scene, &[]).expect_status(0);
    (scene.unit, scene.options) = (SECOND, &["--config", "/etc/reloader/b.toml"]);
    scene.web = WEB_B;
    Sequence::with("second unit, by --config")
        .fate("ExecStart=/usr/sbin/haproxy -Ws -f /etc/haproxy/%i.cfg", "replaced")
        .target(WEB_B)
        .reload(|scene, _| {
            scene.machine.systemctl(&["reload", UNIT]);
            scene.reload();
        })
        .effects(|scene, _| {
            assert_eq!(scene.read("/run/haproxy-b.pid").trim(), scene.main_pid());
            let status = scene.machine.reloader(&["status", "--json"]).expect_status(0);
            assert_eq!(scene.read("/run/haproxy.pid").trim(), scene.machine.unit(UNIT).get("MainPID"));
            assert_eq!(status.at("/warnings"), &serde_json::json!([]), "{}", status.stdout);
        })
        .run(&mut scene);
    (scene.unit, scene.options, scene.web) = (UNIT, &[], WEB);
    takeover(&scene, &["--undo"]).expect_status(0);
    assert_eq!(get(WEB), "ok");
}

/// The answer of HAProxy's own stats socket.
fn ask(scene: &Scene, command: &str) -> String {
    runtime(&scene.machine.inside("/run/haproxy/admin.sock"), command).unwrap_or_else(|error| panic!("{error}"))
}

/// The sandbox that Debian's unit proposes in comments.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn sandbox_of_the_unit_stays_in_force() {
    const SANDBOX: &str = "[Service]\nNoNewPrivileges=true\nProtectHome=true\nProtectSystem=strict\nReadWritePaths=/run\n\
        ProtectKernelTunables=true\nProtectKernelModules=true\nProtectControlGroups=true\n\
        SystemCallFilter=~@cpu-emulation @keyring @module @obsolete @raw-io @reboot @swap @sync\n";
    let setup = Machine::setup().file("/etc/systemd/system/haproxy.service.d/sandbox.conf", SANDBOX);
    let mut scene = Scene::boot(setup, UNIT);
    Sequence::with("Debian's sandbox, ProtectSystem=strict")
        .fate("ProtectSystem=strict", "carried")
        .fate("SystemCallFilter=", "carried")
        .run(&mut scene);

    // Without the operator's own filter, that of the takeover denies nothing.
    takeover(&scene, &[]).expect_status(0);
    std::fs::remove_file(scene.machine.inside("/etc/systemd/system/haproxy.service.d/sandbox.conf")).unwrap();
    scene.machine.systemctl(&["daemon-reload"]);
    scene.machine.systemctl(&["restart", UNIT]);
    scene.reload();
    scene.assert_status("last reload proven");
}

/// A unit as instructions for a HAProxy from source have it: in the background, without a master.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn unit_in_the_background_is_taken_over() {
    const FORKING: &str = "[Unit]\nAfter=network.target\n[Service]\nType=forking\nPIDFile=/run/haproxy.pid\nKillMode=mixed\n\
        ExecStartPre=/usr/sbin/haproxy -f /etc/haproxy/haproxy.cfg -c -q\n\
        ExecStart=/usr/sbin/haproxy -D -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid\n\
        ExecReload=/bin/sh -c \"/usr/sbin/haproxy -c -q -f /etc/haproxy/haproxy.cfg && \
        /usr/sbin/haproxy -D -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -sf $MAINPID\"\n[Install]\nWantedBy=multi-user.target\n";
    let setup = Machine::setup().file("/etc/systemd/system/haproxy.service", FORKING);
    let mut scene = Scene::boot(setup, UNIT);
    Sequence::with("Type=forking, -D, -sf $MAINPID")
        .fate("ExecStartPre=/usr/sbin/haproxy -f /etc/haproxy/haproxy.cfg -c", "replaced")
        .fate("ExecReload=/bin/sh -c", "replaced")
        .run(&mut scene);
}

/// One shell command checks and signals.
#[test]
#[ignore = "alone: boots a machine and loads it"]
fn shell_command_that_checks_and_signals_reloads_once() {
    const SHELL: &str =
        "[Service]\nExecReload=\nExecReload=/bin/sh -c '/usr/sbin/haproxy -c -q -f $CONFIG && kill -USR2 $MAINPID'\n";
    let setup = Machine::setup().file("/etc/systemd/system/haproxy.service.d/shell.conf", SHELL);
    let mut scene = Scene::boot(setup, UNIT);
    Sequence::with("ExecReload=/bin/sh -c 'haproxy -c && kill'")
        .fate("ExecReload=/bin/sh -c", "replaced")
        .run(&mut scene);
}
