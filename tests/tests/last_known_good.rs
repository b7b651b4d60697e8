//! Starts HAProxy from the last-known-good configuration after its own files were broken or removed, and asks for the warnings of copies that
//! would not start.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};

const LIMIT: Duration = Duration::from_secs(30);

/// A configuration whose names are relative to its own directory: a certificate, a map and an error page.
fn with_names() -> Config {
    Config::new().global("default-path config").section(
        "frontend web\n    bind 127.0.0.1:8443 ssl crt certs/ alpn http/1.1\n    bind 127.0.0.1:8080\n    \
         errorfile 503 errors/503.http\n    http-request deny deny_status 503 if { path /none }\n    \
         http-request return status 200 content-type text/plain lf-string %[path,map(hosts.map,unknown)]\n",
    )
}

fn write_named(rig: &Rig) {
    fs::create_dir_all(rig.path("certs")).unwrap();
    fs::create_dir_all(rig.path("errors")).unwrap();
    certificate(&rig.path("certs/web.pem"), "the-first");
    fs::write(rig.path("hosts.map"), "/mapped value\n").unwrap();
    let page = "HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\nour own page\n";
    fs::write(rig.path("errors/503.http"), page).unwrap();
}

fn certificate(path: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", &format!("/CN={name}")]);
    let (key, certificate) = (path.with_extension("tmp-key"), path.with_extension("tmp-crt"));
    let output = command.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(path, [fs::read(&certificate).unwrap(), fs::read(&key).unwrap()].concat()).unwrap();
    fs::remove_file(key).unwrap();
    fs::remove_file(certificate).unwrap();
}

/// The body of the answer from HAProxy.
fn get(path: &str) -> String {
    let output = Command::new("curl").args(["-s", "--max-time", "5", &format!("http://127.0.0.1:8080{path}")]).output();
    String::from_utf8_lossy(&output.expect("curl").stdout).into_owned()
}

/// The name in the certificate with which HAProxy answers a TLS handshake.
fn certificate_name() -> String {
    let script = "openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509 -noout -subject";
    let output = Command::new("/bin/sh").args(["-c", script]).output().expect("openssl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Ends the daemon and what it runs: as after a crash of the machine.
fn kill_everything(rig: &mut Rig) {
    let serving = rig.serving().unwrap();
    rig.kill9_daemon();
    serving.end();
}

#[test]
fn broken_and_missing_files_do_not_prevent_a_start_from_the_copies() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    write_named(&rig);
    rig.configure(&with_names());
    rig.reload().expect_status(0);
    assert_eq!((get("/mapped"), certificate_name()), ("value".into(), "subject=CN = the-first".into()));
    kill_everything(&mut rig);
    fs::write(rig.path("certs/web.pem"), "broken").unwrap();
    fs::remove_file(rig.path("hosts.map")).unwrap();
    fs::remove_dir_all(rig.path("errors")).unwrap();

    rig.start_daemon();
    assert_eq!((get("/mapped"), certificate_name()), ("value".into(), "subject=CN = the-first".into()));
    assert!(get("/none").contains("our own page"), "{}", get("/none"));
    assert!(rig.warnings().contains("HAProxy runs the last-known-good configuration"), "{}", rig.warnings());

    write_named(&rig);
    rig.reload().expect_status(0);
    assert_eq!(rig.warnings(), "[]");
}

/// A configuration with each kind of name, whose files are all in `DIR/etc`.
const EACH_KIND: &str = "global
    crt-base DIR/etc/certs
    ca-base DIR/etc/ca
    lua-load DIR/etc/service.lua
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    errorfile 503 \"DIR/etc/503 page.http\"
http-errors pages
    errorfile 404 DIR/etc/404.http
frontend tls
    bind 127.0.0.1:8443 ssl crt-list DIR/etc/list tls-ticket-keys DIR/etc/tickets
    http-request return status 200
frontend web
    bind 127.0.0.1:8080
    bind 127.0.0.1:8444 ssl crt web.pem crt all ca-file ca.pem crl-file ../ca/crl.pem verify optional
    filter spoe engine agent config DIR/etc/spoe.conf
    acl listed path -f DIR/etc/certs/../paths.lst
    http-request set-map(DIR/etc/hosts.map) /set %[path] if { path /learn }
    http-request add-acl(DIR/etc/certs/../paths.lst) /learnt if { path /learn }
    http-request deny deny_status 503 if listed
    http-request return status 404 errorfile DIR/etc/404.http if { path /missing }
    http-request return status 200 content-type text/plain lf-file DIR/etc/page.txt if { path /page }
    http-request use-service lua.answer if { path /lua }
    http-request return status 200 content-type text/plain lf-string %[path,map(DIR/etc/hosts.map,unknown)]
backend agents
    mode tcp
    server agent 127.0.0.1:9 ssl crt web.pem ca-file ca.pem verify required
";

fn write_each_kind(rig: &Rig) {
    let dir = rig.dir().display().to_string();
    for directory in ["etc/certs/all", "etc/ca"] {
        fs::create_dir_all(rig.path(directory)).unwrap();
    }
    for name in ["certs/web.pem", "certs/listed.pem", "certs/all/x.pem", "ca/ca.pem"] {
        certificate(&rig.path("etc").join(name), &name.replace(['/', '.'], "-"));
    }
    // The key of this certificate is in a file of its own.
    let listed = fs::read_to_string(rig.path("etc/certs/listed.pem")).unwrap();
    let (certificate, key) = listed.split_at(listed.find("-----BEGIN PRIVATE").unwrap());
    fs::write(rig.path("etc/certs/listed.pem"), certificate).unwrap();
    fs::write(rig.path("etc/certs/listed.pem.key"), key).unwrap();
    revocation_list(&rig.path("etc/ca"));
    let page = |status: &str, body: &str| format!("HTTP/1.0 {status}\r\nConnection: close\r\n\r\n{body}\n");
    let spoe = "[agent]\nspoe-agent agent\n    messages none\n    timeout hello 1s\n    timeout idle 1s\n    \
                timeout processing 1s\n    use-backend agents\nspoe-message none\n    args path\n    event on-server-session\n";
    for (name, text) in [
        (
            "list",
            format!("listed.pem [ca-file DIR/etc/ca/ca.pem verify optional]\n{dir}/etc/certs/web.pem web\n")
                .replace("DIR", &dir),
        ),
        ("tickets", "c2l4dGVlbiBieXRlcyBvZiBrZXkgc2l4dGVlbiBieXRlcyBvZiBrZXkgc2l4dGVl\n".repeat(3)),
        (
            "service.lua",
            "core.register_service('answer', 'http', function(applet) applet:set_status(200) \
                         applet:start_response() applet:send('from lua') end)\n"
                .into(),
        ),
        ("503 page.http", page("503 Service Unavailable", "our 503")),
        ("404.http", page("404 Not Found", "our 404")),
        ("paths.lst", "/listed\n".into()),
        ("hosts.map", "/mapped value\n".into()),
        ("page.txt", "our page at %[path]\n".into()),
        ("spoe.conf", spoe.into()),
    ] {
        fs::write(rig.path("etc").join(name), text).unwrap();
    }
    fs::write(rig.haproxy_cfg(), EACH_KIND.replace("DIR", &dir)).unwrap();
}

fn revocation_list(ca: &Path) {
    let script = "echo 01 >serial; : >index.txt; printf '[ca]\\ndefault_ca=x\\n[x]\\ndatabase=index.txt\\ndefault_md=sha256\\n\
                  default_crl_days=30\\n' >ca.conf; openssl ca -config ca.conf -gencrl -keyfile ca.pem -cert ca.pem -out crl.pem";
    let output = Command::new("/bin/sh").args(["-c", script]).current_dir(ca).output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn each_kind_of_named_file_is_copied() {
    netns::enter();
    let mut rig = Rig::with(&Config::new()).prepare();
    write_each_kind(&rig);
    rig.start_daemon();
    let answers = || {
        let paths = ["/mapped", "/listed", "/missing", "/page", "/lua", "/learn", "/set", "/learnt"];
        (paths.map(get), certificate_name())
    };
    let before = answers();
    let bodies = ["value", "our 503", "our 404", "our page at /page", "from lua", "unknown", "/learn", "our 503"];
    for (answer, body) in before.0.iter().zip(bodies) {
        assert!(answer.contains(body), "{body}: {before:?}");
    }
    assert!(before.1.contains("certs-listed-pem"), "{before:?}");
    assert_eq!(rig.warnings(), "[]");
    kill_everything(&mut rig);
    fs::remove_dir_all(rig.path("etc")).unwrap();

    rig.start_daemon();
    assert_eq!(answers(), before);
    assert!(rig.warnings().contains("HAProxy runs the last-known-good configuration"), "{}", rig.warnings());
}

/// The private keys are copied too, so that they must be as safe as their originals.
#[test]
fn copies_are_readable_for_root_alone() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:8080")).prepare();
    write_named(&rig);
    rig.configure(&with_names());
    rig.start_daemon();
    let mut seen = Vec::new();
    let mut left = vec![rig.path("state/last-known-good")];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let mode = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o777, mode, "{}", path.display());
        match found.is_dir() {
            true => left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path())),
            false => seen.push(path.file_name().unwrap().to_string_lossy().into_owned()),
        }
    }
    for name in ["web.pem", "503.http", "hosts.map", "0000-haproxy.cfg"] {
        assert!(seen.iter().any(|seen| seen == name), "{name}: {seen:?}");
    }
}

#[test]
fn config_only_copies_no_private_key() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:8080")).haproxy_line("last-known-good = \"config-only\"").prepare();
    write_named(&rig);
    rig.configure(&with_names());
    rig.start_daemon();
    assert!(!rig.path("state/last-known-good/files").exists());
    // The names of this configuration are relative, and still lead to their files.
    kill_everything(&mut rig);
    rig.configure(&Config::new().section("no-such-section"));
    rig.start_daemon();
    assert_eq!((get("/mapped"), certificate_name()), ("value".into(), "subject=CN = the-first".into()));
}

/// Only the original of a file above the limit is there. A start from the copies needs it.
#[test]
fn copies_that_would_not_start_are_in_status_until_they_would() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:8080")).prepare();
    let large = rig.path("large.lst");
    File::create(&large).unwrap().set_len(33 << 20).unwrap();
    fs::write(rig.path("module.lua"), "return {}\n").unwrap();
    fs::write(rig.path("start.lua"), format!("dofile(\"{}\")\n", rig.path("module.lua").display())).unwrap();
    let web = |with_large: bool| {
        let web = Config::web("127.0.0.1:8080").global(&format!("lua-load {}", rig.path("start.lua").display()));
        let acl = format!("backend b\n    acl l path -f {}\n    http-request deny if l\n", large.display());
        if with_large { web.section(&acl) } else { web }
    };
    rig.configure(&web(true));
    let without = web(false);
    rig.start_daemon();
    let warnings = rig.warnings();
    assert!(warnings.contains("last-known-good has no copy of") && warnings.contains("large.lst"), "{warnings}");
    let notes = rig.status().at("/notes").to_string();
    assert!(notes.contains("start.lua loads by itself"), "{notes}");

    let tried = || rig.log().matches("would start from the last-known-good").count();
    until(LIMIT, "the check of the copies", || tried() == 1);
    rig.configure(&without);
    rig.reload().expect_status(0);
    assert!(!rig.warnings().contains("large.lst"), "{}", rig.warnings());
    until(LIMIT, "the check of the new copies", || tried() == 2);
    fs::remove_file(rig.path("module.lua")).unwrap();
    rig.reload().expect_status(1);
    until(LIMIT, "the warning", || rig.warnings().contains("would not start from the last-known-good"));
    let warnings = rig.warnings();
    assert!(warnings.contains("module.lua") && warnings.contains("then reload"), "{warnings}");

    fs::write(rig.path("module.lua"), "return {}\n").unwrap();
    rig.reload().expect_status(0);
    until(LIMIT, "the warning to go", || rig.warnings() == "[]");
}

#[test]
fn check_of_the_copies_that_hangs_delays_neither_status_nor_reload() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).haproxy_at(&wrapper.path()).start();
    let copies = rig.path("state/last-known-good/start");
    wrapper.set(Behaviour::HangInCheck);
    rig.configure(&Config::web("127.0.0.1:8080").global("maxconn 99"));
    rig.reload().expect_status(0);
    until(LIMIT, "the check to hang", || hanging_process(&copies).is_some());
    let check = hanging_process(&copies).unwrap();
    until(LIMIT, "the lowest priority", || check.nice() == Some(19));
    rig.configure(&Config::web("127.0.0.1:8080").global("maxconn 98"));
    rig.reload().expect_status(0);
    assert!(rig.serving().is_some());
    until(LIMIT, "the first check to be ended", || !check.is_alive());
}

/// Copies of the configuration that is being started would take as long.
#[test]
fn slow_start_is_waited_for_where_the_copies_are_of_the_same_configuration() {
    netns::enter();
    let wrapper = Wrapper::new();
    let setup = Rig::with(&Config::web("127.0.0.1:8080")).haproxy_at(&wrapper.path());
    let rig =
        setup.tables("[reload]\nstart-timeout = \"1s\"\nfirst-start-timeout = \"1h\"\ncustody-max = \"1h\"\n").start();
    assert!(rig.path("state/last-known-good/start").is_dir());
    wrapper.set(Behaviour::WaitForChange);
    let crashed = rig.serving().unwrap();
    crashed.signal(Signal::SIGKILL);
    until(LIMIT, "another start", || *rig.status().at("/starting/generation") == 2);
    let began = Instant::now();
    until(LIMIT, "the time that a reload may take to pass", || began.elapsed() > Duration::from_secs(2));
    assert_eq!(*rig.status().at("/starting/generation"), 2);
    wrapper.set(Behaviour::Normal);
    until(LIMIT, "a restart", || rig.last_receipt()["kind"] == "restart");
    let receipt = rig.last_receipt();
    assert_eq!(receipt["result"], "proven", "{receipt:#}");
    assert!(!receipt["notes"].to_string().contains("last-known-good"), "{receipt:#}");
}
