//! Where cargo puts what it builds by a profile.

/// The name of the directory in `target`, which is not always the profile's own (the Cargo book, "Build cache").
pub(crate) fn directory(profile: &str) -> &str {
    match profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        own => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_profiles_share_two_directories() {
        let directories = ["dev", "test", "release", "bench", "guest"].map(directory);
        assert_eq!(directories, ["debug", "debug", "release", "release", "guest"]);
    }
}
