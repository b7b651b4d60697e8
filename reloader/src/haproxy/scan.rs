//! Collects the few facts that the daemon needs from the user's HAProxy configuration before a process reads it.
//!
//! This is not a full parser: HAProxy itself validates the configuration. Conditional blocks (`.if`) are read as if their conditions were
//! true.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::drain_times::{self, DrainTimes};
use super::launch::label;
use super::words::words;

/// What QUIC clients lose in a reload, although their socket is passed on.
pub const QUIC_LOSES: &str = "QUIC: HAProxy serves no connection whose handshake ended after it was told to stop, and no request that comes \
    on an older connection after that: these clients have to connect again";

/// The facts that the daemon needs from the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `stats maxconn` of the `global` section.
    pub stats_maxconn: StatsMaxconn,
    /// The user set `close-spread-time`.
    pub close_spread_time: bool,
    /// `grace` and `hard-stop-after`, where the file says the times themselves.
    pub drain_times: DrainTimes,
    /// `noreuseport`: listeners are bound without SO_REUSEPORT.
    pub noreuseport: bool,
    /// The configuration asks for master-worker mode.
    pub master_worker: bool,
    /// `nbproc` over 1, with its value and place.
    pub many_processes: Option<(u32, String)>,
    /// The place of the first `program` section.
    pub program: Option<String>,
    /// The place of the first `no option start-on-reload`: a program that a reload must not restart.
    pub lasting_program: Option<String>,
    /// The first bind of a descriptor that HAProxy is to inherit, with its place: `fd@3`, `sd@web`.
    pub inherited_bind: Option<(String, String)>,
    /// At least one bind uses QUIC.
    pub quic: bool,
    /// Paths of the stats sockets, as written.
    pub stats_sockets: Vec<PathBuf>,
    /// At least one stats socket exports the listeners.
    pub exposes: bool,
}

/// The limit of connections to HAProxy's CLI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatsMaxconn {
    /// The configuration sets no limit: HAProxy's default applies.
    #[default]
    Default,
    /// The limit that the user set.
    Set(u32),
    /// The user set a limit in a form that only HAProxy can read, such as an environment variable.
    Unreadable,
}

/// A configuration file and its bytes.
pub type Source = (PathBuf, Vec<u8>);

/// Reads the configuration files in the order in which HAProxy reads them. A directory stands for its `*.cfg` files in alphabetical order
/// (`cfgfiles_expand_directories` in HAProxy's `haproxy.c`).
///
/// # Errors
/// Where a file or directory cannot be read.
pub fn read(paths: &[PathBuf]) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        for file in files_of(path)? {
            let text = read_file(&file)?;
            sources.push((file, text));
        }
    }
    Ok(sources)
}

/// The files for which a path of the command line stands.
pub(super) fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| is_configuration(file));
    files.sort();
    Ok(files)
}

/// When a file was last changed, or renamed to this path (ctime).
pub fn changed_at(path: &Path) -> Option<SystemTime> {
    let seconds = std::fs::metadata(path).ok()?.ctime();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().ok()?))
}

fn is_configuration(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|extension| extension == "cfg") && file.is_file()
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

/// Reads the configuration and collects its facts.
///
/// # Errors
/// The configuration cannot be read, or no generation can run it. The text is a sentence.
pub fn load(paths: &[PathBuf]) -> Result<(Vec<Source>, Facts), String> {
    let sources = read(paths).map_err(|error| format!("HAProxy's configuration: {error}"))?;
    if sources.is_empty() {
        return Err(format!("HAProxy's configuration: no .cfg file in {}", label(paths)));
    }
    let facts = facts(&sources);
    match facts.refusal() {
        Some(refusal) => Err(refusal),
        None => Ok((sources, facts)),
    }
}

/// Collects the facts.
pub fn facts(sources: &[Source]) -> Facts {
    let mut facts = Facts::default();
    for (path, text) in sources {
        let mut global = false;
        let mut program = false;
        for (number, line) in String::from_utf8_lossy(text).lines().enumerate() {
            let words = words(line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let place = || format!("{}:{}", path.display(), number + 1);
            match words[..] {
                [] => {}
                ["global", ..] => (global, program) = (true, false),
                [section, ..] if starts_section(section) => {
                    (global, program) = (false, section == "program");
                    if program && facts.program.is_none() {
                        facts.program = Some(place());
                    }
                }
                ["no", "option", "start-on-reload", ..] if program && facts.lasting_program.is_none() => {
                    facts.lasting_program = Some(place());
                }
                ["bind", addresses, ..] if !global => {
                    let speaks_quic = |at: &str| at.starts_with("quic4@") || at.starts_with("quic6@");
                    facts.quic |= addresses.split(',').any(speaks_quic);
                    let is_inherited = |at: &&str| at.starts_with("fd@") || at.starts_with("sd@");
                    if let (None, Some(address)) = (&facts.inherited_bind, addresses.split(',').find(is_inherited)) {
                        facts.inherited_bind = Some((address.to_owned(), place()));
                    }
                }
                // In `global` from 2.4 on, before that in each proxy.
                ["grace", value, ..] => {
                    let grace = &mut facts.drain_times.grace;
                    *grace = (*grace).max(drain_times::time(value));
                }
                _ if global => note_global(&mut facts, &words, place),
                _ => {}
            }
        }
    }
    facts
}

fn note_global(facts: &mut Facts, words: &[&str], place: impl Fn() -> String) {
    match words {
        ["stats", "maxconn", value, ..] => {
            facts.stats_maxconn = value.parse().map_or(StatsMaxconn::Unreadable, StatsMaxconn::Set);
        }
        ["stats", "socket", address, options @ ..] => {
            facts.exposes |= options.windows(2).any(|pair| pair == ["expose-fd", "listeners"]);
            let path = address.strip_prefix("unix@").unwrap_or(address);
            if path.starts_with('/') {
                facts.stats_sockets.push(path.into());
            }
        }
        ["close-spread-time", ..] => facts.close_spread_time = true,
        ["hard-stop-after", value, ..] => facts.drain_times.hard_stop_after = drain_times::time(value),
        ["master-worker", ..] => facts.master_worker = true,
        ["noreuseport", ..] => facts.noreuseport = true,
        ["nbproc", value, ..] => {
            facts.many_processes =
                value.parse().ok().filter(|processes| *processes > 1).map(|processes| (processes, place()));
        }
        _ => {}
    }
}

/// Section keywords of HAProxy up to 3.2, which may be indented.
pub(super) fn starts_section(first_word: &str) -> bool {
    const SECTIONS: [&str; 19] = [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "mailers",
        "resolvers",
        "userlist",
        "program",
        "http-errors",
        "ring",
        "log-forward",
        "log-profile",
        "fcgi-app",
        "cache",
        "crt-store",
        "traces",
        "acme",
    ];
    SECTIONS.contains(&first_word)
}

impl Facts {
    /// A sentence that says why a reload would end a program although the configuration forbids it. `None` without such a program.
    pub fn lasting_program_sentence(&self) -> Option<String> {
        self.lasting_program.as_ref().map(|place| {
            format!(
                "{place}: `no option start-on-reload` cannot be kept: each generation has a master of its own, which runs programs of its \
                 own; remove it, run the program as a service of its own, or set mode = \"companion\""
            )
        })
    }

    /// A sentence that says why no generation can run this configuration. `None` if one can.
    pub fn refusal(&self) -> Option<String> {
        if let Some((processes, place)) = &self.many_processes {
            return Some(format!(
                "{place}: `nbproc {processes}` cannot be reloaded with proof: each process binds for itself; use `nbthread`"
            ));
        }
        if let Some((address, place)) = &self.inherited_bind {
            return Some(format!(
                "{place}: `bind {address}` takes a socket from the process that starts HAProxy (socket activation), and reloader passes none \
                 in that way: write the address itself there, and disable the socket unit"
            ));
        }
        if let Some(place) = self.program.as_ref().filter(|_| !self.master_worker) {
            return Some(format!(
                "{place}: a `program` section needs `master-worker` in the `global` section (HAProxy 2.0 to 3.2), and later versions run \
                 no programs: run it as a service of its own"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Facts {
        facts(&[("a.cfg".into(), text.into())])
    }

    #[test]
    fn facts_come_from_global_sections_only() {
        let found = scan(
            "global\n  stats maxconn 30 # many\n  stats socket /run/a.sock level admin\n  stats socket ipv4@127.0.0.1:99\n\
             stats socket \"unix@/run/b c.sock\"\n  close-spread-time 1s\n\
             defaults\n  mode http\nfrontend f\n  stats maxconn 99\nlisten l\nglobal\n  master-worker\n",
        );
        assert_eq!(found.stats_maxconn, StatsMaxconn::Set(30));
        assert_eq!(scan("global\n stats maxconn ${N}\n").stats_maxconn, StatsMaxconn::Unreadable);
        assert!(found.close_spread_time && found.master_worker);
        assert_eq!(found.stats_sockets, [PathBuf::from("/run/a.sock"), PathBuf::from("/run/b c.sock")]);
        assert_eq!(found.refusal(), None);
    }

    #[test]
    fn quic_bind_is_found_among_others() {
        assert!(scan("frontend f\n  bind :443,quic4@:443 ssl crt a.pem alpn h3\n").quic);
        assert!(!scan("frontend f\n  bind :443 name quic4@ # quic4@:443\n").quic);
    }

    #[test]
    fn comments_are_ignored() {
        assert_eq!(scan("global\n # stats maxconn 3\n #close-spread-time 1s\n"), Facts::default());
    }

    #[test]
    fn configuration_that_cannot_be_reloaded_is_refused_with_its_place() {
        let refusal = scan("global\n  nbproc 4\n").refusal().unwrap();
        assert!(refusal.starts_with("a.cfg:2: `nbproc 4`"), "{refusal}");
        assert!(scan("global\n nbproc 1\n").refusal().is_none());
        for address in ["fd@3", "\"fd@${FD_WEB}\"", ":80,fd@4", "sd@web"] {
            let refusal = scan(&format!("frontend f\n  bind {address}\n")).refusal().unwrap();
            assert!(refusal.starts_with("a.cfg:2: `bind ") && refusal.contains("socket activation"), "{refusal}");
        }
        let refusal = scan("global\nprogram p\n  command x\n").refusal().unwrap();
        assert!(refusal.starts_with("a.cfg:2: a `program`"), "{refusal}");
        assert!(scan("global\n master-worker\nprogram p\n  command x\n").refusal().is_none());
        let lasting = scan("global\n master-worker\nprogram p\n  command x\n  no option start-on-reload\n");
        assert!(lasting.lasting_program_sentence().unwrap().starts_with("a.cfg:5: `no option start-on-reload`"));
        assert_eq!(scan("listen l\n  no option start-on-reload\n").lasting_program, None);
    }

    #[test]
    fn hard_stop_after_is_read_where_it_is_written_out() {
        let found = |text: &str| scan(text).drain_times.hard_stop_after;
        assert_eq!(found("global\n hard-stop-after 3s\n"), Some(Duration::from_secs(3)));
        assert_eq!(found("global\n hard-stop-after \"${LIMIT}\"\n"), None);
        assert_eq!(found("defaults\n hard-stop-after 3s\n"), None);
        assert_eq!(
            scan("global\n grace 2s\ndefaults\n grace 10000\n").drain_times.grace,
            Some(Duration::from_secs(10))
        );
    }
}
