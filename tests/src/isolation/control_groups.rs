//! Makes control groups for one test, in every hierarchy of the machine. A booted machine creates its own groups below
//! them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::poll::satisfied_within;

/// The groups. `remove` removes them with the groups below them.
pub(super) struct ControlGroups(Vec<PathBuf>);

impl ControlGroups {
    /// Creates the groups below those of this process. Where a hierarchy does not allow it, as in some containers, the
    /// test runs without a group, and a line reports it.
    pub(super) fn create(name: &str) -> ControlGroups {
        let mut groups = Vec::new();
        for parent in own_groups() {
            let group = parent.join(name);
            match fs::create_dir(&group).and_then(|()| inherit_cpuset(&parent, &group)) {
                Ok(()) => groups.push(group),
                Err(error) => eprintln!("no control group {}: {error}", group.display()),
            }
        }
        ControlGroups(groups)
    }

    /// Moves a process into all of these groups.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        self.0.iter().try_for_each(|group| move_to(group, pid))
    }

    /// Removes all groups, and gives the first error.
    pub(super) fn remove(self) -> Result<()> {
        self.0.iter().map(|group| remove_when_empty(group)).fold(Ok(()), Result::and)
    }
}

/// Moves a process into one group.
pub(super) fn move_to(group: &Path, pid: u32) -> Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("moving process {pid} to {}", group.display()))
}

/// Removes the groups below `groups` whose name is abandoned.
pub(super) fn sweep(groups: &[PathBuf], is_abandoned: &dyn Fn(&str) -> bool) {
    for entry in groups.iter().filter_map(|group| fs::read_dir(group).ok()).flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned)
            && let Err(error) = remove_when_empty(&entry.path())
        {
            eprintln!("{error:#}");
        }
    }
}

/// Removes a group once it is empty. A killed process leaves its group a little after it was waited for.
pub(super) fn remove_when_empty(group: &Path) -> Result<()> {
    let mut result = Ok(());
    satisfied_within(Duration::from_secs(5), || {
        result = remove(group);
        result.is_ok()
    });
    result.with_context(|| format!("the control group {} could not be removed", group.display()))
}

/// Removes a group with all groups below it. The files of a control group cannot be removed, and need not be.
fn remove(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Gives a new group of the cpuset hierarchy (version 1) processors and memory: without them it takes no process.
fn inherit_cpuset(parent: &Path, group: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let known = group.join(file);
        if known.exists() && fs::read_to_string(&known)?.trim().is_empty() {
            // In version 2 the parent's file may be empty, too: the values are inherited already.
            let own = fs::read_to_string(parent.join(file)).unwrap_or_default();
            if !own.trim().is_empty() {
                fs::write(known, own.trim())?;
            }
        }
    }
    Ok(())
}

/// The directories of the control groups that this process is in, one for each hierarchy.
pub fn own_groups() -> Vec<PathBuf> {
    hierarchies().into_iter().map(|(root, path)| root.join(path)).collect()
}

/// The group of this process in the hierarchy of version 2.
///
/// # Panics
/// The machine has no such hierarchy.
pub fn own_unified_group() -> PathBuf {
    let unified = own_groups().into_iter().find(|group| group.join("cgroup.controllers").exists());
    unified.expect("control groups of version 2")
}

/// The directories where the hierarchies are mounted.
pub(super) fn roots() -> Vec<PathBuf> {
    hierarchies().into_iter().map(|(root, _)| root).collect()
}

/// The mount point of each hierarchy, with the path of this process's group below it.
fn hierarchies() -> Vec<(PathBuf, PathBuf)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    hierarchies_in(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// From /proc/PID/cgroup (`4:memory:/a`, `0::/a`; cgroups(7)) and /proc/PID/mountinfo (proc_pid_mountinfo(5)).
fn hierarchies_in(groups: &str, mounts: &str) -> Vec<(PathBuf, PathBuf)> {
    let hierarchy = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        Some((mount_of(controllers, mounts)?, path.trim_start_matches('/').into()))
    };
    groups.lines().filter_map(hierarchy).collect()
}

/// `35 25 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu`
fn mount_of(controllers: &str, mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = after.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let wanted = match controllers {
            "" => kind == "cgroup2",
            names => kind == "cgroup" && names.split(',').all(|name| options.split(',').any(|option| option == name)),
        };
        wanted.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_found_at_their_mounts() {
        let groups = "5:cpu,cpuacct:/a\n1:name=systemd:/b/c\n0::/d\n9:absent:/\n";
        let mounts = "1 2 0:1 / /proc rw - proc proc rw\n\
                      3 2 0:2 / /cg/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      4 2 0:3 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n\
                      5 2 0:4 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        let found: Vec<_> = hierarchies_in(groups, mounts).iter().map(|(root, path)| root.join(path)).collect();
        assert_eq!(found, ["/cg/cpu/a", "/cg/systemd/b/c", "/cg/unified/d"].map(PathBuf::from));
    }
}
