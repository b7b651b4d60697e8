//! Calls cargo with the environment that a shell would give it.

use std::process::Command;

/// Prefixes of the variables by which cargo tells a program about its package.
const PACKAGE_PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];

/// `cargo`, for a program that may itself run under cargo. The build script of `ring` reads what cargo says about a
/// package. If that differs from the call before, half of the workspace is built again.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_a_package(variable: &str) -> bool {
    PACKAGE_PREFIXES.iter().any(|beginning| variable.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_configure_cargo_are_kept() {
        assert!(["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"].into_iter().all(describes_a_package));
        assert!(!["CARGO_HOME", "CARGO_TARGET_DIR", "PATH"].into_iter().any(describes_a_package));
    }
}
