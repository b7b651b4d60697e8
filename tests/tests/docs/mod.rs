//! The documents tell the truth: each command in them is run and prints what they show, each configuration is read, and what they name is there.

mod blocks;
mod host;
mod names;
mod reference;
mod runner;
mod systemd;
mod sysv;

/// A block: its page, and how its first line begins.
type Place = (&'static str, &'static str);

const README: &str = "README.md";
const CONTAINERS: &str = "docs/guide/containers.md";
const FLIP: &str = "docs/guide/flip.md";
const FRONT: &str = "docs/guide/front.md";
const HOLDING: &str = "docs/guide/holding.md";
const MESSAGES: &str = "docs/internals/messages.md";
const PROVE: &str = "docs/guide/prove.md";
const QUICKSTART: &str = "docs/guide/quickstart.md";
const STATUS: &str = "docs/reference/status.md";
const SYSTEMD: &str = "docs/guide/systemd.md";
const SYSV: &str = "docs/guide/sysv.md";
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";
const UPGRADING: &str = "docs/guide/upgrading-and-rolling-back.md";

/// Blocks of commands that no test runs, and why.
const NOT_RUN: &[(Place, &str)] = &[
    ((README, "cargo build"), "the tests run what cargo has built"),
    ((README, "cargo xtask demo"), "`.ci/run` runs it"),
    ((README, "cargo xtask test"), "`.ci/run` runs it"),
    ((QUICKSTART, "cargo build"), "the tests run what cargo has built"),
    ((QUICKSTART, "# reloader daemon"), "it stays in the foreground; a machine that boots runs it by its unit"),
    (("CONTRIBUTING.md", "cargo build"), "cargo, run by CI; the demo as well"),
    (
        ("CONTRIBUTING.md", "cargo xtask test"),
        "a test cannot run all tests; xtask's own test reads these command lines",
    ),
    (("docs/bench.md", "sudo -E"), "it takes half an hour; xtask's own test reads these command lines"),
    ((PROVE, "reloader prove"), "it loads a host of the internet; the command line's own test reads it"),
    ((FRONT, "global\n"), "the tests in `front` run with it"),
    ((FRONT, "load_module"), "the tests in `front` run with it"),
    (
        (FRONT, "# reloader check"),
        "it takes a unit: `front::port_moves_from_nginx_to_haproxy_without_loss` does the same",
    ),
    ((SYSV, "$ cargo xtask dist"), "`cargo xtask ci --all` runs it"),
    ((SYSTEMD, "[Service]"), "for HAProxy's `namespace`, and for kernels that systemd of this machine does not boot"),
    ((SYSV, "# modprobe"), "it takes sch_plug: `sysv::lifecycle` does the same in a guest that has it"),
    ((SYSV, "# echo manual"), "no current distribution has Upstart"),
    ((FLIP, "table inet flip"), "`flip` compares it with the table that its tests load"),
    ((FLIP, "flush map"), "`flip` does it in each of its flips"),
    ((CONTAINERS, "FROM debian"), "no engine runs here"),
    (
        (CONTAINERS, "$ docker run --detach"),
        "no engine runs here; `containers::reloads` and `containers::stops` do the same by namespaces",
    ),
    ((CONTAINERS, "$ docker run --cap-add"), "no engine runs here; `containers::privileges` has a test for each"),
];
