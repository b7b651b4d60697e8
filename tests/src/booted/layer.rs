//! Mounts a disposable layer over the cached root, which takes all writes of the machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Setup;
use super::host::write_file;

/// The root with a disposable layer over it.
pub(super) struct Layer {
    dir: tempfile::TempDir,
}

impl Layer {
    pub(super) fn over(root: &Path) -> Layer {
        let dir = tempfile::Builder::new().prefix("booted-").tempdir().expect("a temporary directory");
        for part in ["upper", "work", "merged"] {
            fs::create_dir(dir.path().join(part)).expect("a directory");
        }
        let at = dir.path().display();
        let options = format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", root.display());
        let options = std::ffi::CString::new(options).expect("no zero byte");
        let layer = Layer { dir };
        mount("overlay", layer.merged(), "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .expect("mounting overlayfs, which the kernel must support");
        layer
    }

    /// Applies the set-up: removes and writes files, and makes links.
    pub(super) fn apply(&self, setup: &Setup) {
        for path in &setup.removed {
            fs::remove_file(self.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        for (path, text) in &setup.files {
            self.write(path, text);
        }
        for (path, text) in &setup.programs {
            self.write(path, text);
            fs::set_permissions(self.inside(path), fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        for (path, target) in &setup.links {
            symlink(target, self.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }

    pub(super) fn merged(&self) -> PathBuf {
        self.dir.path().join("merged")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.path().join("console")
    }

    /// Copies a file of the host into the machine.
    pub(super) fn copy(&self, file: &Path, path: &str) {
        fs::copy(file, self.inside(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.merged().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        write_file(&self.inside(path), text);
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.merged(), UnmountFlags::DETACH) {
            eprintln!("{} is still mounted: {error}", self.merged().display());
        }
    }
}
