//! Finds users and groups by name.

use std::fs;

use nix::unistd::{Group, User};

/// The user with this name.
///
/// # Errors
/// A sentence: there is none, or the users cannot be read.
pub(crate) fn user(name: &str) -> Result<User, String> {
    let found = User::from_name(name).map_err(|errno| format!("the user `{name}` cannot be looked up: {errno}"))?;
    found.ok_or_else(|| format!("there is no user `{name}` on this machine"))
}

/// The id of the group with this name.
///
/// # Errors
/// A sentence: there is none, or the groups cannot be read.
pub(crate) fn group(name: &str) -> Result<u32, String> {
    let found = group_id(name).map_err(|errno| format!("the group `{name}` cannot be looked up: {errno}"))?;
    found.ok_or_else(|| format!("there is no group `{name}` on this machine"))
}

/// The id of a group; `None` where no group has that name. `/etc/group` is read first. Every other source of names is a shared library of the
/// machine, which was built for another libc than the one in a static program.
pub(crate) fn group_id(name: &str) -> nix::Result<Option<u32>> {
    let listed = fs::read("/etc/group").unwrap_or_default();
    match listed_id(&String::from_utf8_lossy(&listed), name) {
        Some(id) => Ok(Some(id)),
        None => Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())),
    }
}

/// `name:password:number:members`, as group(5) has it.
fn listed_id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let text = "# a word\nroots:x:7:\nroot:x:0:\nwheel:x:none:\n+:::\nops:*:50:ann,bob\n";
        assert_eq!(["root", "ops", "op", "wheel"].map(|name| listed_id(text, name)), [Some(0), Some(50), None, None]);
    }

    #[test]
    fn root_group_is_found_and_unknown_group_is_none() {
        assert_eq!(group_id("root"), Ok(Some(0)));
        assert_eq!(group_id("no-such-group-of-reloader"), Ok(None));
        assert!(group("no-such-group-of-reloader").unwrap_err().contains("there is no group"));
        assert!(user("no-such-user-of-reloader").unwrap_err().contains("no-such-user-of-reloader"));
    }
}
