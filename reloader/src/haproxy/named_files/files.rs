//! Lists the files behind a name: what belongs to a certificate, and what is in a directory.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kind;

/// At most this many files are copied, and have a digest.
pub(in crate::haproxy) const MAX_FILES: usize = 4096;

/// What belongs to a certificate, by the name of its file (`ssl-load-extra-files`).
const BESIDE_CERTIFICATES: [&str; 5] = ["key", "ocsp", "issuer", "sctl", "dh"];
/// The certificates of a bundle. The name itself is not a file.
const BUNDLE: [&str; 3] = ["rsa", "ecdsa", "dsa"];

/// The files behind a name. Empty if there are none. One more than [`MAX_FILES`] of a directory stand for too many. It blocks.
pub(super) fn standing_behind(path: &Path, kind: Kind) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|entry| entry.is_file());
        let mut files: Vec<PathBuf> = files.take(MAX_FILES + 1).collect();
        files.sort();
        return files;
    }
    let is_certificate = kind == Kind::Certificate;
    match path.is_file() {
        true if is_certificate => with_siblings(path),
        true => vec![path.to_owned()],
        false if is_certificate => BUNDLE.iter().flat_map(|kind| with_siblings(&with_ending(path, kind))).collect(),
        false => Vec::new(),
    }
}

fn with_siblings(path: &Path) -> Vec<PathBuf> {
    if !path.is_file() {
        return Vec::new();
    }
    let beside = BESIDE_CERTIFICATES.iter().map(|ending| with_ending(path, ending));
    // `ssl-load-extra-del-ext`.
    let is_crt = path.extension().is_some_and(|extension| extension == "crt");
    let instead = BESIDE_CERTIFICATES.iter().filter(|_| is_crt).map(|ending| path.with_extension(ending));
    let others = beside.chain(instead).filter(|path| path.is_file());
    std::iter::once(path.to_owned()).chain(others).collect()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_bundles_belong_to_a_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["a.crt", "a.crt.ocsp", "a.key", "b.pem.rsa", "b.pem.rsa.key", "b.pem.ecdsa"] {
            fs::write(at(name), name).unwrap();
        }
        let found = |name: &str, kind| standing_behind(&at(name), kind);
        assert_eq!(found("a.crt", Kind::Certificate), ["a.crt", "a.crt.ocsp", "a.key"].map(at));
        assert_eq!(found("a.crt", Kind::Plain), [at("a.crt")]);
        assert_eq!(found("b.pem", Kind::Certificate), ["b.pem.rsa", "b.pem.rsa.key", "b.pem.ecdsa"].map(at));
        assert_eq!(found("none", Kind::Certificate), [""; 0].map(at));
        assert_eq!(standing_behind(directory.path(), Kind::Certificate).len(), 6);
    }
}
