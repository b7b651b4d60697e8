//! Checks the keys that depend on `mode = "companion"`.

use crate::config::settings::{Config, Haproxy, Reload};
use crate::config::span::Limit;
use crate::config::values::{AtMaxDraining, Mode};

impl Config {
    /// Checks whether a daemon in companion mode can use this configuration. The mode stays until the daemon is started again, and
    /// in this mode the daemon does not end workers.
    ///
    /// # Errors
    /// If it cannot. The text of the error is a sentence.
    pub(crate) fn fits_companion(&self) -> Result<(), String> {
        match &self.haproxy {
            None => {
                Err("haproxy: companion mode needs the table [haproxy]; to leave HAProxy alone, stop the daemon".into())
            }
            Some(haproxy) => check(&Haproxy { mode: Mode::Companion, ..haproxy.clone() }, &self.reload),
        }
    }
}

/// Checks `[haproxy]` and `[reload]` against the mode.
///
/// # Errors
/// If two keys do not fit together. The text of the error is a sentence that begins with the key.
pub(super) fn check(haproxy: &Haproxy, reload: &Reload) -> Result<(), String> {
    if haproxy.mode == Mode::Supervised {
        return match &haproxy.master_cli {
            None => Ok(()),
            Some(_) => {
                Err("haproxy.master-cli: the daemon asks HAProxy's master only in companion mode; set mode = \"companion\" as well, \
                            or remove it"
                    .into())
            }
        };
    }
    if let Some(path) = haproxy.master_cli.as_ref().filter(|path| !path.is_absolute()) {
        return Err(format!(
            "haproxy.master-cli: `{}` must be an absolute path, that of the unix socket which HAProxy's `-S` names, or \"none\"",
            path.display()
        ));
    }
    if reload.hard_stop_after != Limit::Never {
        return Err("reload.hard-stop-after: in companion mode HAProxy's master retires its workers by itself; write \
                    `hard-stop-after` into the global section of HAProxy's configuration instead"
            .into());
    }
    if reload.at_max_draining == AtMaxDraining::EndOldest {
        return Err("reload.at-max-draining: in companion mode reloader does not end workers; use \"wait\", or `mworker-max-reloads` \
                    in the global section of HAProxy's configuration"
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Mode};

    fn refusal(text: &str) -> String {
        Config::parse(text).unwrap_err()
    }

    #[test]
    fn the_socket_of_the_master_is_optional() {
        let config = Config::parse("[haproxy]\nmode = \"companion\"\n").unwrap();
        let haproxy = config.haproxy.unwrap();
        assert_eq!((haproxy.mode, haproxy.master_cli), (Mode::Companion, None));
        let config = Config::parse("[haproxy]\nmode = \"companion\"\nmaster-cli = \"/run/m.sock\"\n").unwrap();
        assert_eq!(config.haproxy.unwrap().master_cli, Some("/run/m.sock".into()));
    }

    #[test]
    fn a_configuration_that_a_companion_cannot_use_is_refused() {
        let fits = |text: &str| Config::parse(text).unwrap().fits_companion();
        assert_eq!(fits("[haproxy]\nmode = \"supervised\"\n"), Ok(()));
        assert!(fits("[reload]\nhard-stop-after = \"1m\"\n").unwrap_err().contains("hard-stop-after"));
        let another = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"replace\"\nlisten = [\"0.0.0.0:80\"]\n";
        assert!(fits(another).unwrap_err().contains("needs the table"));
    }

    #[test]
    fn keys_that_do_not_fit_the_mode_are_refused_with_a_remedy() {
        let alone = refusal("[haproxy]\nmaster-cli = \"/run/m.sock\"\n");
        assert!(alone.contains("haproxy.master-cli") && alone.contains("mode = \"companion\""), "{alone}");
        let companion = "[haproxy]\nmode = \"companion\"\n";
        let relative = refusal(&format!("{companion}master-cli = \"m.sock\"\n"));
        assert!(relative.contains("`m.sock` must be an absolute path"), "{relative}");
        let cut = refusal(&format!("{companion}[reload]\nhard-stop-after = \"1h\"\n"));
        assert!(cut.contains("hard-stop-after") && cut.contains("global section"), "{cut}");
        let oldest = refusal(&format!("{companion}[reload]\nmax-draining = 2\nat-max-draining = \"end-oldest\"\n"));
        assert!(oldest.contains("at-max-draining") && oldest.contains("mworker-max-reloads"), "{oldest}");
        let unknown = refusal("[haproxy]\nmode = \"beside\"\n");
        assert!(unknown.contains("line 2") && unknown.contains("companion"), "{unknown}");
    }
}
