//! Follows where relative names begin while a configuration is read: `default-path`, `crt-base`, `ca-base`. Pure.

use std::path::{Path, PathBuf};

use super::mention::Kind;

/// Where relative names begin at one place of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Bases {
    working_dir: PathBuf,
    default: DefaultPath,
    certificates: PathBuf,
    authorities: PathBuf,
}

/// `default-path`: the directory that HAProxy makes its working directory while it reads a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DefaultPath {
    Current,
    Config,
    Parent,
    Origin(PathBuf),
}

impl Bases {
    /// Before the first line, in a process with this working directory.
    pub(super) fn new(working_dir: &Path) -> Bases {
        let (working_dir, none) = (working_dir.to_owned(), PathBuf::new);
        Bases { working_dir, default: DefaultPath::Current, certificates: none(), authorities: none() }
    }

    /// Notes what a line of the configuration says. True if it makes relative names begin in a directory by `default-path`.
    pub(super) fn note(&mut self, words: &[&str]) -> bool {
        match words {
            ["crt-base", path, ..] => self.certificates = path.into(),
            ["ca-base", path, ..] => self.authorities = path.into(),
            ["default-path", "origin", path, ..] => self.default = DefaultPath::Origin(self.working_dir.join(path)),
            ["default-path", "config", ..] => self.default = DefaultPath::Config,
            ["default-path", "parent", ..] => self.default = DefaultPath::Parent,
            ["default-path", "current", ..] => self.default = DefaultPath::Current,
            _ => {}
        }
        words.first() == Some(&"default-path") && self.default != DefaultPath::Current
    }

    /// Whether the directory of the configuration file decides.
    pub(super) fn depends_on_file(&self) -> bool {
        matches!(self.default, DefaultPath::Config | DefaultPath::Parent)
    }

    /// The working directory while HAProxy reads `file`.
    pub(super) fn working_dir(&self, file: &Path) -> PathBuf {
        let parent = |path: &Path| path.parent().map_or_else(|| self.working_dir.clone(), Path::to_owned);
        match &self.default {
            DefaultPath::Current => self.working_dir.clone(),
            DefaultPath::Config => parent(file),
            DefaultPath::Parent => parent(&parent(file)),
            DefaultPath::Origin(origin) => origin.clone(),
        }
    }

    /// The same bases, for names in a file that is read while HAProxy reads `file`.
    pub(super) fn at(&self, file: &Path) -> Bases {
        Bases { default: DefaultPath::Origin(self.working_dir(file)), ..self.clone() }
    }

    /// Where a relative name of this kind begins in `file`.
    pub(super) fn directory(&self, kind: Kind, file: &Path) -> PathBuf {
        let working_dir = self.working_dir(file);
        let base = match kind {
            Kind::Certificate => &self.certificates,
            Kind::Authority => &self.authorities,
            // HAProxy opens a list as it is named (`ssl_sock_load_cert_list_file`), and the certificates in it below `crt-base`.
            Kind::Plain | Kind::Script | Kind::CertificateList => return working_dir,
        };
        // Joining an empty path would add a slash.
        if base.as_os_str().is_empty() { working_dir } else { working_dir.join(base) }
    }
}
