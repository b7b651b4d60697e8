//! Finds the control group of this process, and says why no other can be made below it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::process::procfs;

/// Where the control groups of version 2 are visible.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Home {
    /// The topmost directory.
    pub(super) mount: PathBuf,
    /// The directory of this process's own group.
    pub(super) own: PathBuf,
}

impl Home {
    /// Finds it.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn find() -> Result<Home, String> {
        let own = procfs::unified_control_group()
            .ok_or("this kernel, or this container, has no control groups of version 2")?;
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        Home::of(&own, &mounts)
            .ok_or_else(|| format!("the control group {own} of version 2 is not mounted where this process sees it"))
    }

    /// Where a group is visible, by the lines of proc_pid_mountinfo(5). Pure.
    fn of(group: &str, mounts: &str) -> Option<Home> {
        // It is outside of the control group namespace.
        if group.starts_with("/..") {
            return None;
        }
        mounts.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            let below = Path::new(group).strip_prefix(root).ok()?;
            let home = Home { mount: point.into(), own: Path::new(point).join(below) };
            (kind.split(' ').next() == Some("cgroup2")).then_some(home)
        })
    }

    /// Why no process could enter a group that is made here, as a sentence: it would be of the type "domain invalid" (cgroups(7), threaded
    /// groups). The root group has no type.
    pub(super) fn why_not_entered(&self) -> Option<String> {
        let kind = fs::read_to_string(self.own.join("cgroup.type")).ok()?;
        let kind = kind.trim_end();
        (kind != "domain").then(|| {
            format!(
                "no process can enter a control group below {}, because that is threaded (cgroup.type is \"{kind}\")",
                self.own.display()
            )
        })
    }

    /// The sentence for an error by which no group can be made here.
    pub(super) fn refusal(&self, error: &io::Error) -> String {
        let remedy = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                " (ProtectControlGroups= of the unit, or a container: it needs a writable one)"
            }
            io::ErrorKind::PermissionDenied => " (the daemon needs to be root, and its unit Delegate=yes)",
            _ => "",
        };
        format!("no control group can be made below {}: {error}{remedy}", self.own.display())
    }
}

/// Why this process cannot make groups, as a sentence. Changes nothing.
pub(crate) fn why_none() -> Option<String> {
    let home = match Home::find() {
        Ok(home) => home,
        Err(why) => return Some(why),
    };
    let access = accessat(CWD, &home.own, Access::WRITE_OK, AtFlags::empty());
    access.err().map(|errno| home.refusal(&errno.into())).or_else(|| home.why_not_entered())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_found_below_the_mount_that_shows_it() {
        let mounts = "29 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      30 23 0:27 /unit /mnt/some rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
                      31 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = |group| Home::of(group, mounts).map(|home| (home.mount, home.own));
        let at = |mount: &str, own: &str| Some((mount.into(), own.into()));
        assert_eq!(found("/unit/a"), at("/mnt/some", "/mnt/some/a"));
        assert_eq!(found("/other"), at("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/other"));
        assert_eq!(found("/"), at("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/"));
        assert_eq!(Home::of("/other", mounts.lines().nth(1).unwrap()), None);
        assert_eq!(Home::of("/../outside", "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"), None);
    }
}
