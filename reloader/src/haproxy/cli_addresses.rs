//! Reads the addresses of the stats sockets from the configuration of a running HAProxy. Before 1.8 it has no `show cli sockets`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::scan::{self, Source, starts_section};
use super::words::words;
use crate::fs::read_plain;
use crate::model::listener::Address;
use crate::process;

/// The longest configuration file that is read, in bytes. The process itself writes its command line, and may name any file.
const LONGEST: u64 = 64 << 20;

/// The stats sockets that the configuration of process `root` names. The files are those of its command line, as they are now. A file that
/// cannot be read, or is no plain file, is left out. It blocks as long as file systems do.
pub(super) fn configured(root: u32) -> HashSet<Address> {
    let command_line = process::command_line(root).unwrap_or_default();
    let directory = working_dir(root, &command_line);
    let files = files(&command_line).into_iter().map(|file| directory.join(file));
    let sources = sources(files);
    let environment = process::whole_environment(root);
    let variables = environment.iter().filter_map(|entry| entry.split_once('='));
    stats_sockets(&sources, variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn sources(paths: impl Iterator<Item = PathBuf>) -> Vec<Source> {
    let files = paths.flat_map(|path| scan::files_of(&path).unwrap_or_default());
    files.filter_map(|file| Some((file.clone(), read_plain(&file, LONGEST).ok()?))).collect()
}

/// A process that has changed its root shows a directory below the new one. The daemon's own generations have begun in the daemon's directory.
fn working_dir(root: u32, command_line: &[String]) -> PathBuf {
    let link = |name: &str| std::fs::read_link(format!("/proc/{root}/{name}")).ok();
    let is_in_our_root = link("root").is_some_and(|directory| directory == Path::new("/"));
    let own = || std::env::current_dir().unwrap_or_else(|_| "/".into());
    let started_in = if is_in_our_root { link("cwd").unwrap_or_else(own) } else { own() };
    let chosen = command_line.windows(2).rfind(|pair| pair[0] == "-C");
    chosen.map_or_else(|| started_in.clone(), |pair| started_in.join(&pair[1]))
}

/// The configuration files of a command line (`init` in HAProxy's `haproxy.c`).
fn files(command_line: &[String]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut rest = command_line.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-f" => files.extend(rest.next().map(PathBuf::from)),
            "--" => files.extend(rest.by_ref().map(PathBuf::from)),
            _ => {}
        }
    }
    files
}

fn stats_sockets(sources: &[Source], mut variables: HashMap<String, String>) -> HashSet<Address> {
    let mut found = HashSet::new();
    for (_, text) in sources {
        let mut is_global = false;
        for line in String::from_utf8_lossy(text).lines() {
            let words = words(line);
            match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                [section, ..] if starts_section(section) => is_global = section == "global",
                ["setenv", name, value, ..] if is_global => {
                    variables.insert(name.to_owned(), value.to_owned());
                }
                ["presetenv", name, value, ..] if is_global => {
                    variables.entry(name.to_owned()).or_insert_with(|| value.to_owned());
                }
                ["stats", "socket", address, ..] if is_global => found.extend(parse(&expand(address, &variables))),
                _ => {}
            }
        }
    }
    found
}

/// Replaces `$NAME` and `${NAME}`. A variable that is not set is empty.
fn expand(text: &str, variables: &HashMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let is_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                after.split_at(after.find(|letter| !is_of_a_name(letter)).unwrap_or(after.len()))
            }
        };
        expanded.push_str(variables.get(name).map_or("", String::as_str));
        rest = behind;
    }
    expanded + rest
}

/// An address as `str2sa_range` in HAProxy's `standard.c` reads it. `None` for a name that has to be resolved.
fn parse(text: &str) -> Option<Address> {
    if let Some(name) = text.strip_prefix("abns@") {
        return Some(Address::Abstract(name.as_bytes().to_vec()));
    }
    let path = text.strip_prefix("unix@").or_else(|| text.starts_with('/').then_some(text));
    if let Some(path) = path {
        return Some(Address::Unix(path.into()));
    }
    let (any, text) = match (text.strip_prefix("ipv6@"), text.strip_prefix("ipv4@")) {
        (Some(rest), _) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), rest),
        (None, rest) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), rest.unwrap_or(text)),
    };
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() || host == "*" { any } else { host.parse().ok()? };
    Some(Address::Inet(SocketAddr::new(host, port.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> HashSet<Address> {
        stats_sockets(&[("a.cfg".into(), text.into())], HashMap::from([("RUN".into(), "/run/h".into())]))
    }

    fn inet(address: &str) -> Address {
        Address::Inet(address.parse().unwrap())
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        for (written, address) in [
            ("/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("unix@/run/a.sock", Address::Unix("/run/a.sock".into())),
            ("\"${RUN}/a.sock\"", Address::Unix("/run/h/a.sock".into())),
            ("$RUN/a.sock", Address::Unix("/run/h/a.sock".into())),
            ("abns@cli", Address::Abstract(b"cli".to_vec())),
            ("127.0.0.1:99", inet("127.0.0.1:99")),
            ("ipv4@*:99", inet("0.0.0.0:99")),
            (":99", inet("0.0.0.0:99")),
            ("::1:99", inet("[::1]:99")),
            ("ipv6@[::1]:99", inet("[::1]:99")),
            ("ipv6@:99", inet("[::]:99")),
        ] {
            assert_eq!(
                of(&format!("global\n stats socket {written} level admin\n")),
                HashSet::from([address]),
                "{written}"
            );
        }
        assert!(of("global\n stats socket localhost:99\n").is_empty());
    }

    #[test]
    fn only_stats_sockets_of_the_global_section_count() {
        let text = "global\n setenv RUN /run/set\n presetenv RUN /run/preset\n stats socket $RUN/a # b\n stats timeout 1s\n\
                    frontend f\n bind unix@/run/web.sock\n stats socket /run/b\n";
        assert_eq!(of(text), HashSet::from([Address::Unix("/run/set/a".into())]));
    }

    #[test]
    fn only_plain_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("a.cfg");
        std::fs::write(&plain, "global\n").unwrap();
        let read = sources(["/dev/null".into(), "/none".into(), directory.path().to_owned()].into_iter());
        assert_eq!(read, [(plain, b"global\n".to_vec())]);
    }

    #[test]
    fn files_are_named_by_the_command_line() {
        let words: Vec<String> =
            "/bin/sh haproxy -db -f a.cfg -f b.cfg -p x -- c.cfg".split(' ').map(str::to_owned).collect();
        assert_eq!(files(&words), ["a.cfg", "b.cfg", "c.cfg"].map(PathBuf::from));
    }
}
