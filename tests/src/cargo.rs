//! Calls cargo as a shell does.

use std::process::Command;

/// What cargo tells a program that it runs, or builds, about its package.
const ABOUT_A_PACKAGE: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];

/// `cargo`, for a program that another cargo may have run. The build script of `ring` looks at what cargo says about a package: with
/// anything else there than in the call before, half of the workspace is built again.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_a_package(variable: &str) -> bool {
    ABOUT_A_PACKAGE.iter().any(|beginning| variable.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_is_configured_by_is_not_about_a_package() {
        assert!(["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"].into_iter().all(is_about_a_package));
        assert!(!["CARGO_HOME", "CARGO_TARGET_DIR", "PATH"].into_iter().any(is_about_a_package));
    }
}
