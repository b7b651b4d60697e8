//! Caches the rate of connections that an emulated guest carries. Its clock counts instructions, so the rate depends only on the programs in
//! the guest and is measured once.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use reloader_tests::guest;
use reloader_tests::kernels::Kernel;
use reloader_tests::versions::cache_dir;
use ring::digest::{Context, SHA256};

use super::Accelerator;
use super::machine::COMMAND_LINE;

/// What the rate depends on besides the kernel: the server, the emulator, and the sources of the load generator.
const PROGRAMS: [&str; 2] = ["/usr/sbin/haproxy", "/usr/bin/qemu-system-x86_64"];
const SOURCES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "reloader/src/load",
    "tests/src/bin/guest-init.rs",
    "tests/src/haproxy.rs",
    "tests/src/load",
    "tests/src/plain.rs",
    "tests/src/guest/rate.rs",
    "tests/src/netns.rs",
];

/// The rate of one kind of guest.
pub(crate) struct CarriedRate {
    /// The cache file; none if the rate must be measured each time.
    file: Option<PathBuf>,
    measured: Cell<Option<u32>>,
}

impl CarriedRate {
    /// The rate of a guest with this kernel and environment, which says what the guest is denied.
    ///
    /// # Errors
    /// If a file on which the rate depends cannot be read.
    pub(crate) fn for_guest(
        kernel: &Kernel,
        accelerator: &Accelerator,
        environment: &[(String, String)],
    ) -> Result<CarriedRate> {
        let file = match accelerator {
            Accelerator::Kvm => None,
            Accelerator::Emulated(_) => {
                Some(cache_dir().join("guest-carries").join(digest(kernel, accelerator, environment)?))
            }
        };
        Ok(CarriedRate { file, measured: Cell::new(None) })
    }

    /// The connections a second, if a guest of this kind has measured them.
    pub(crate) fn known(&self) -> Option<u32> {
        fs::read_to_string(self.file.as_ref()?).ok()?.trim().parse().ok()
    }

    /// Reads the rate from a line that a guest has printed.
    pub(crate) fn note(&self, line: &str) {
        if let Some(rate) = guest::carried(line) {
            self.measured.set(Some(rate));
        }
    }

    /// Stores the measured rate for the next guest of this kind. To be called once a test has passed with it.
    pub(crate) fn keep(&self) {
        if let (Some(file), Some(rate)) = (&self.file, self.measured.take())
            && let Err(error) = write(file, rate)
        {
            eprintln!("{}: {error}", file.display());
        }
    }
}

fn write(file: &Path, rate: u32) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    write!(draft, "{rate}")?;
    draft.persist(file)?;
    Ok(())
}

fn digest(kernel: &Kernel, accelerator: &Accelerator, environment: &[(String, String)]) -> Result<String> {
    let mut context = Context::new(&SHA256);
    let words = accelerator.arguments().iter().chain([&COMMAND_LINE, &super::PROFILE]);
    words.for_each(|word| context.update(word.as_bytes()));
    environment.iter().for_each(|(name, value)| context.update(format!("{name}={value}\n").as_bytes()));
    let repository = crate::repository();
    let files = [kernel.image.clone()].into_iter().chain(PROGRAMS.map(PathBuf::from));
    for path in files.chain(SOURCES.map(|source| repository.join(source))) {
        crate::content::add(&mut context, &path)?;
    }
    Ok(crate::content::hexadecimal(context))
}
