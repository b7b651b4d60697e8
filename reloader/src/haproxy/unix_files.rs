//! Finds unix sockets whose files have another mode or owner than the configuration says.
//!
//! HAProxy sets mode and owner only when it binds a path itself (`sock_unix_bind_receiver`). Where it is passed the socket, a change of `mode`,
//! `user` or `group` has no effect: clients that the new configuration lets in are refused, or others are let in.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::scan::{Source, starts_section};
use super::words::words;
use crate::fs::accounts;

/// Mode and owner of a file, as far as the configuration sets them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Attributes {
    mode: Option<u32>,
    user: Option<u32>,
    group: Option<u32>,
}

impl Attributes {
    /// Takes what the options of a line set. A name that is unknown is HAProxy's to refuse.
    fn take(&mut self, options: &[String]) {
        for pair in options.windows(2) {
            let value = pair[1].as_str();
            match pair[0].as_str() {
                "mode" => self.mode = u32::from_str_radix(value, 8).ok(),
                "uid" => self.user = value.parse().ok(),
                "gid" => self.group = value.parse().ok(),
                "user" => self.user = accounts::user(value).ok().map(|user| user.uid.as_raw()),
                "group" => self.group = accounts::group(value).ok(),
                _ => {}
            }
        }
    }

    fn differ_from(&self, path: &Path) -> bool {
        let differs = |wanted: Option<u32>, found: u32| wanted.is_some_and(|wanted| wanted != found);
        fs::metadata(path).is_ok_and(|found| {
            differs(self.mode, found.permissions().mode() & 0o7777)
                || differs(self.user, found.uid())
                || differs(self.group, found.gid())
        })
    }
}

/// The paths of sockets that have to be bound again for their mode and owner to take effect. It blocks as long as file systems do.
pub fn outdated(sources: &[Source]) -> HashSet<PathBuf> {
    let configured = configured(sources).into_iter();
    configured.filter(|(path, wanted)| wanted.differ_from(path)).map(|(path, _)| path).collect()
}

/// The unix sockets that the lines name with an absolute path.
fn configured(sources: &[Source]) -> Vec<(PathBuf, Attributes)> {
    let mut found = Vec::new();
    let (mut prefix, mut of_all) = (String::new(), Attributes::default());
    for (_, text) in sources {
        let mut section = String::new();
        for line in String::from_utf8_lossy(text).lines() {
            let words = words(line);
            match &words[..] {
                [first, ..] if starts_section(first) => section.clone_from(first),
                [first, options @ ..] if first == "unix-bind" && section == "global" => {
                    of_all.take(options);
                    let at = options.iter().position(|option| option == "prefix");
                    prefix = at.and_then(|at| options.get(at + 1)).cloned().unwrap_or_default();
                }
                [first, addresses, options @ ..] if first == "bind" => {
                    let mut wanted = of_all.clone();
                    wanted.take(options);
                    let paths = addresses.split(',').filter_map(|address| path_of(address, &prefix));
                    found.extend(paths.map(|path| (path, wanted.clone())));
                }
                [first, second, address, options @ ..] if first == "stats" && second == "socket" => {
                    let mut wanted = Attributes::default();
                    wanted.take(options);
                    found.extend(path_of(address, "").map(|path| (path, wanted)));
                }
                _ => {}
            }
        }
    }
    found
}

/// `None` for an address of another kind, and for a path that depends on a variable or on the working directory.
fn path_of(address: &str, prefix: &str) -> Option<PathBuf> {
    let path = address.strip_prefix("unix@").or_else(|| address.starts_with('/').then_some(address))?;
    let path = PathBuf::from(format!("{prefix}{path}"));
    (path.is_absolute() && !address.contains('$')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<Source> {
        vec![("a.cfg".into(), text.into())]
    }

    fn attributes(mode: u32, user: Option<u32>) -> Attributes {
        Attributes { mode: Some(mode), user, group: None }
    }

    #[test]
    fn attributes_follow_from_the_lines_of_a_socket() {
        let text = "global\n stats socket /run/a.sock mode 660 level admin\n unix-bind prefix /run mode 600\n\
                    frontend f\n bind :80,unix@/web.sock user root # mode 666\n bind /b.sock mode 666\n bind abns@x mode 600\n \
                    bind unix@\"${DIR}/c.sock\" mode 600\n";
        let found = configured(&sources(text));
        let expected = [
            ("/run/a.sock", attributes(0o660, None)),
            ("/run/web.sock", attributes(0o600, Some(0))),
            ("/run/b.sock", attributes(0o666, None)),
        ];
        assert_eq!(found, expected.map(|(path, wanted)| (PathBuf::from(path), wanted)));
    }

    #[test]
    fn file_with_another_mode_is_outdated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let found = |options: &str| {
            let text = format!("frontend f\n bind unix@{} {options}\n", path.display());
            outdated(&sources(&text)).contains(&path)
        };
        let own = rustix::process::geteuid().as_raw();
        assert!(found("mode 666") && found(&format!("mode 600 uid {}", own + 1)));
        assert!(!found("mode 600") && !found("") && !found(&format!("mode 0600 uid {own}")));
        fs::remove_file(&path).unwrap();
        assert!(!found("mode 666"), "it is gone");
    }
}
