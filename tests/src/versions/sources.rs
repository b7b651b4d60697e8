//! Finds the Debian mirror of this host. This project names no mirror: behind a proxy or a snapshot only the host's own
//! mirror can be reached.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A mirror, and the keys of its Release files if the host names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) uri: String,
    pub(crate) signed_by: Option<String>,
}

/// The mirror of this host, or the one that `RELOADER_DEBIAN_MIRROR` names.
pub(crate) fn mirror() -> Result<Mirror> {
    if let Ok(uri) = std::env::var("RELOADER_DEBIAN_MIRROR") {
        // Another distribution has Debian's keys in its package debian-archive-keyring, and trusts them for nothing
        // else.
        let keys = Some(DEBIAN_KEYS.to_owned()).filter(|path| Path::new(path).exists());
        return Ok(Mirror { uri, signed_by: keys });
    }
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let codename = os_release(&release, "VERSION_CODENAME").context("/etc/os-release names no suite")?;
    let debian = os_release(&release, "ID") == Some("debian");
    let found = debian.then(|| files().iter().find_map(|text| find(text, codename))).flatten();
    found.context(
        "this host's apt sources name no Debian mirror; name one in RELOADER_DEBIAN_MIRROR, \
         with the package debian-archive-keyring installed",
    )
}

fn files() -> Vec<String> {
    let listed = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = listed.collect();
    paths.push(Path::new("/etc/apt/sources.list").to_owned());
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect()
}

fn os_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(|value| value.trim_matches('"'))
}

fn find(text: &str, codename: &str) -> Option<Mirror> {
    deb822(text, codename).or_else(|| text.lines().find_map(|line| one_line(line, codename)))
}

/// Reads a stanza of a `.sources` file.
fn deb822(text: &str, codename: &str) -> Option<Mirror> {
    text.split("\n\n").find_map(|stanza| {
        let fields = fields(stanza);
        let words = |key: &str| fields.get(key).copied().unwrap_or("").split_ascii_whitespace();
        let fits = words("suites").any(|suite| suite == codename) && words("types").any(|kind| kind == "deb");
        let uri = words("uris").next().filter(|_| fits)?;
        Some(Mirror {
            uri: uri.into(),
            signed_by: words("signed-by").next().filter(|path| path.starts_with('/')).map(Into::into),
        })
    })
}

fn fields(stanza: &str) -> HashMap<String, &str> {
    let lines = stanza.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':')).map(|(key, value)| (key.to_ascii_lowercase(), value.trim())).collect()
}

/// Reads a line `deb [signed-by=/…] URI SUITE main`.
fn one_line(line: &str, codename: &str) -> Option<Mirror> {
    let rest = line.strip_prefix("deb ")?.trim();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let uri = words.next()?;
    let key = options.split_ascii_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    (words.next()? == codename).then(|| Mirror { uri: uri.into(), signed_by: key.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_of_the_main_suite_is_read_from_a_sources_file() {
        let text = "Types: deb\nURIs: mirror:/security\nSuites: bookworm-security\n\n\
                    Types: deb\n# URIs: old\nURIs: mirror:/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k.gpg\n";
        let expected = Mirror { uri: "mirror:/debian".into(), signed_by: Some("/k.gpg".into()) };
        assert_eq!(find(text, "bookworm"), Some(expected));
        assert_eq!(find(text, "trixie"), None);
    }

    #[test]
    fn mirror_of_the_main_suite_is_read_from_a_list() {
        let text =
            "# deb x bookworm main\ndeb-src s bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] m bookworm main\n";
        let expected = Mirror { uri: "m".into(), signed_by: Some("/k.gpg".into()) };
        assert_eq!(find(text, "bookworm"), Some(expected));
        assert_eq!(find("deb m bookworm-updates main", "bookworm"), None);
    }
}
