//! Finds the files that a HAProxy configuration names: certificates, maps, Lua scripts, error pages. This is not a full parser: a path in a
//! variable or in a form that only HAProxy can read is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::scan::{Source, words};
use crate::fs::read_plain;
use crate::receipt::FileDigest;

/// At most this many files are looked at.
const MAX_FILES: usize = 4096;
/// The longest file whose digest is made, in bytes.
const LONGEST: u64 = 64 << 20;

/// Options of `bind` and `server` with a file or a directory of files as their value. The second value says which base directory applies.
const OPTIONS: [(&str, Base); 10] = [
    ("crt", Base::Certificates),
    ("crt-list", Base::CertificateList),
    ("ca-file", Base::Authorities),
    ("ca-verify-file", Base::Authorities),
    ("ca-sign-file", Base::Authorities),
    ("crl-file", Base::Authorities),
    ("tls-ticket-keys", Base::None),
    ("-f", Base::None),
    ("lf-file", Base::None),
    ("file", Base::None),
];

/// Keywords that begin a line and are followed by a file.
const KEYWORDS: [&str; 5] =
    ["lua-load", "lua-load-per-thread", "ssl-dh-param-file", "51degrees-data-file", "wurfl-data-file"];

/// What belongs to a certificate, by the name of its file (`ssl-load-extra-files`).
const BESIDE_CERTIFICATES: [&str; 5] = ["key", "ocsp", "issuer", "sctl", "dh"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    None,
    Certificates,
    /// As for certificates; the file lists some.
    CertificateList,
    Authorities,
}

/// Where relative names begin.
#[derive(Debug, Default)]
struct Bases {
    /// `default-path`.
    default: Option<PathBuf>,
    certificates: Option<PathBuf>,
    authorities: Option<PathBuf>,
}

/// The files that the configuration names, in the order of their paths. Directories stand for their files. Files that are not there are left
/// out.
pub fn named_files(sources: &[Source]) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut bases = Bases::default();
    for (source, text) in sources {
        for line in String::from_utf8_lossy(text).lines() {
            let words = words(line);
            note_base(&mut bases, source, &words);
            for (base, name) in names(&words) {
                let path = bases.resolve(base, &name);
                if base == Base::CertificateList {
                    for certificate in listed_certificates(&path) {
                        add(&mut found, &bases.resolve(Base::Certificates, &certificate), Base::Certificates);
                    }
                }
                add(&mut found, &path, base);
            }
        }
    }
    found.into_iter().take(MAX_FILES).collect()
}

/// The digests of the configuration files and of the files that they name. It blocks.
pub fn digests(sources: &[Source]) -> Vec<FileDigest> {
    let own = sources.iter().map(|(path, bytes)| FileDigest::new(path, bytes));
    let is_source = |path: &PathBuf| sources.iter().any(|(source, _)| source == path);
    let named = named_files(sources).into_iter().filter(|path| !is_source(path)).map(|path| digest_of(&path));
    own.chain(named).collect()
}

fn digest_of(path: &Path) -> FileDigest {
    read_plain(path, LONGEST).map_or_else(|_| FileDigest::unreadable(path), |bytes| FileDigest::new(path, &bytes))
}

fn note_base(bases: &mut Bases, source: &Path, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["crt-base", path, ..] => bases.certificates = Some(path.into()),
        ["ca-base", path, ..] => bases.authorities = Some(path.into()),
        ["default-path", "origin", path, ..] => bases.default = Some(path.into()),
        ["default-path", "config", ..] => bases.default = source.parent().map(Path::to_owned),
        ["default-path", "parent", ..] => bases.default = source.parent().and_then(Path::parent).map(Path::to_owned),
        ["default-path", "current", ..] => bases.default = None,
        _ => {}
    }
}

impl Bases {
    fn resolve(&self, base: Base, name: &str) -> PathBuf {
        let directory = match base {
            Base::Certificates | Base::CertificateList => self.certificates.as_ref(),
            Base::Authorities => self.authorities.as_ref(),
            Base::None => None,
        };
        // Joining an absolute name gives the name itself.
        let below = directory.map_or_else(|| PathBuf::from(name), |directory| directory.join(name));
        self.default.as_ref().map_or_else(|| below.clone(), |default| default.join(&below))
    }
}

/// The names of files in a line.
fn names(words: &[String]) -> Vec<(Base, String)> {
    let mut names = Vec::new();
    let first = words.first().map_or("", String::as_str);
    if KEYWORDS.contains(&first) {
        names.extend(words.get(1).map(|name| (Base::None, name.clone())));
    }
    if first == "errorfile" {
        names.extend(words.get(2).map(|name| (Base::None, name.clone())));
    }
    for (option, value) in words.iter().zip(words.iter().skip(1)) {
        if let Some((_, base)) = OPTIONS.iter().find(|(name, _)| name == option) {
            names.push((*base, value.clone()));
        }
    }
    // `%[src,map_ip(/etc/haproxy/a.map,default)]`
    for word in words {
        for (place, _) in word.match_indices("map") {
            let call = word[place..]
                .split_once('(')
                .filter(|(name, _)| name.chars().all(|letter| letter.is_alphanumeric() || letter == '_'));
            let argument = call.map(|(_, rest)| rest.split([',', ')']).next().unwrap_or_default());
            names.extend(
                argument
                    .filter(|name| name.contains('/') || name.contains('.'))
                    .map(|name| (Base::None, name.to_owned())),
            );
        }
    }
    names.retain(|(_, name)| {
        !name.is_empty() && !name.contains('$') && !name.starts_with('@') && !name.contains("virt@")
    });
    names
}

/// The certificates of a `crt-list`: the first word of each of its lines.
fn listed_certificates(list: &Path) -> Vec<String> {
    let text = read_plain(list, LONGEST).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let first = |line: &str| line.split_whitespace().next().filter(|word| !word.starts_with('#')).map(str::to_owned);
    text.lines().filter_map(first).take(MAX_FILES).collect()
}

fn add(found: &mut BTreeSet<PathBuf>, path: &Path, base: Base) {
    if found.len() >= MAX_FILES {
        return;
    }
    if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|entry| entry.is_file()).collect();
        files.sort();
        found.extend(files.into_iter().take(MAX_FILES));
    } else if path.is_file() {
        found.insert(path.to_owned());
        if base == Base::Certificates {
            let beside = BESIDE_CERTIFICATES.map(|extension| {
                let mut name = path.as_os_str().to_owned();
                name.push(".");
                name.push(extension);
                PathBuf::from(name)
            });
            found.extend(beside.into_iter().filter(|path| path.is_file()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_each_kind_of_line() {
        let found = |line: &str| names(&words(line)).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(found("bind :443 ssl crt /a.pem ca-file /ca.pem alpn h2"), ["/a.pem", "/ca.pem"]);
        assert_eq!(found("server s 10.0.0.1:80 ssl crt b.pem verify required ca-file @system-ca"), ["b.pem"]);
        assert_eq!(found("errorfile 503 /etc/haproxy/errors/503.http"), ["/etc/haproxy/errors/503.http"]);
        assert_eq!(found("lua-load /a.lua arg"), ["/a.lua"]);
        assert_eq!(found("acl blocked src -f /etc/blocked.lst"), ["/etc/blocked.lst"]);
        assert_eq!(found("use_backend %[req.hdr(host),lower,map_dom(/etc/hosts.map,web)]"), ["/etc/hosts.map"]);
        assert_eq!(found("http-request return status 200 content-type text/html lf-file /a.html"), ["/a.html"]);
        assert_eq!(found("bind :443 ssl crt \"${CERTS}/a.pem\""), [""; 0]);
        assert_eq!(found("frontend map"), [""; 0]);
    }

    #[test]
    fn relative_names_begin_at_their_base() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (name, text) in [
            ("a.cfg", ""),
            ("certs/web.pem", "c"),
            ("certs/web.pem.key", "k"),
            ("err/503.http", "e"),
            ("all/x.pem", "x"),
            ("certs/listed.pem", "l"),
            ("list.txt", "# all\nlisted.pem [alpn h2] example.com\nnone.pem\n"),
        ] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        let text = format!(
            "global\n default-path config\n crt-base {root}/certs\nfrontend f\n bind :443 ssl crt web.pem crt {root}/all crt-list {root}/list.txt\n errorfile 503 err/503.http\n \
             errorfile 500 err/none.http\n",
            root = root.display()
        );
        let sources = [(root.join("a.cfg"), text.into_bytes())];
        let expected =
            ["all/x.pem", "certs/listed.pem", "certs/web.pem", "certs/web.pem.key", "err/503.http", "list.txt"];
        assert_eq!(named_files(&sources), expected.map(|name| root.join(name)));
        let digests = digests(&sources);
        assert_eq!(digests.len(), 7);
        assert!(digests.iter().all(|file| file.sha256.is_some()));
    }
}
