//! Finds whether the use of a kernel feature would load a module.

use std::fs;
use std::path::Path;

use crate::kernel::kernel_release;

/// Where a module is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Module {
    /// In the running kernel, or nowhere at all: its use loads nothing.
    Settled,
    /// In a file, not loaded: its use would load it.
    OnDisk,
    /// Not loaded, and the folder of modules is not visible, as in a container.
    Hidden,
}

impl Module {
    /// `name` with underscores, as the kernel has it.
    pub(super) fn find(name: &str) -> Self {
        let folder = kernel_release().map(|release| Path::new("/lib/modules").join(release)).unwrap_or_default();
        let list = |file| fs::read_to_string(folder.join(file)).ok();
        let loaded = Path::new("/sys/module").join(name).exists();
        // A kernel without support for modules has no such file.
        let loadable = Path::new("/proc/modules").exists();
        if loaded || !loadable {
            return Self::Settled;
        }
        decide(name, list("modules.dep").as_deref(), list("modules.builtin").as_deref())
    }

    /// The reason not to try the feature; `None` where its use loads nothing.
    pub(super) fn reason_not_to_try(&self, name: &str) -> Option<String> {
        match self {
            Self::Settled => None,
            Self::OnDisk => {
                Some(format!("not tried, as that would load the module {name}, which is on disk but not loaded"))
            }
            Self::Hidden => Some(format!(
                "not tried, as that might load the module {name}: this kernel's /lib/modules is not visible"
            )),
        }
    }
}

fn decide(name: &str, files: Option<&str>, builtin: Option<&str>) -> Module {
    let listed = |list: &str| list.lines().any(|line| module_of(line).as_deref() == Some(name));
    match (files, builtin) {
        (_, Some(builtin)) if listed(builtin) => Module::Settled,
        (Some(files), _) if listed(files) => Module::OnDisk,
        (Some(_), _) => Module::Settled,
        (None, _) => Module::Hidden,
    }
}

/// `kernel/net/sched/sch_plug.ko.xz: kernel/...` is `sch_plug`.
fn module_of(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split_once(".ko")?.0.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &str = "kernel/net/sched/sch_plug.ko.xz:\nkernel/drivers/net/ifb.ko: kernel/a/b.ko\n";
    const BUILTIN: &str = "kernel/net/sched/sch-ingress.ko\n";

    #[test]
    fn module_on_disk_would_be_loaded() {
        let find = |name| decide(name, Some(FILES), Some(BUILTIN));
        assert_eq!(find("sch_plug"), Module::OnDisk);
        assert_eq!(find("ifb"), Module::OnDisk);
        assert_eq!(find("sch_ingress"), Module::Settled);
        assert_eq!(find("cls_bpf"), Module::Settled);
        // A dependency is on a line of its own too; here it is not.
        assert_eq!(find("b"), Module::Settled);
    }

    #[test]
    fn module_is_hidden_without_the_list_of_files() {
        assert_eq!(decide("ifb", None, None), Module::Hidden);
        assert_eq!(decide("sch_ingress", None, Some(BUILTIN)), Module::Settled);
    }
}
