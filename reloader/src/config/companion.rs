//! What `mode = "companion"` asks of the other keys.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::{AtMaxDraining, Config, Haproxy, Limit, Mode, Reload};

/// A path, or `"none"`.
#[derive(Debug, Clone)]
pub(super) struct MasterCli(pub(super) Option<PathBuf>);

impl<'de> Deserialize<'de> for MasterCli {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MasterCli, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(MasterCli((text != "none").then(|| text.into())))
    }
}

impl Config {
    /// Whether a daemon that is a companion can take this configuration: the mode stays until it is started again, and it ends
    /// nobody's workers.
    pub(crate) fn fits_companion(&self) -> Result<(), String> {
        match &self.haproxy {
            None => Err("haproxy: a companion needs its table; to leave HAProxy alone, stop the daemon".into()),
            Some(haproxy) => check(&Haproxy { mode: Mode::Companion, ..haproxy.clone() }, &self.reload),
        }
    }
}

/// Refuses what does not go together, in a sentence.
pub(super) fn check(haproxy: &Haproxy, reload: &Reload) -> Result<(), String> {
    if haproxy.mode == Mode::Supervised {
        return match &haproxy.master_cli {
            None => Ok(()),
            Some(_) => {
                Err("haproxy.master-cli: only a companion asks HAProxy's master; set mode = \"companion\" as well, \
                            or remove it"
                    .into())
            }
        };
    }
    if let Some(path) = haproxy.master_cli.as_ref().filter(|path| !path.is_absolute()) {
        return Err(format!(
            "haproxy.master-cli: `{}` must be an absolute path: that of the unix socket behind HAProxy's `-S`, or \"none\"",
            path.display()
        ));
    }
    if reload.hard_stop_after != Limit::Never {
        return Err("reload.hard-stop-after: in companion mode HAProxy's master retires its workers by itself; write \
                    `hard-stop-after` into the global section of HAProxy's configuration instead"
            .into());
    }
    if reload.at_max_draining == AtMaxDraining::EndOldest {
        return Err("reload.at-max-draining: in companion mode reloader ends no worker; use \"wait\", or `mworker-max-reloads` \
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
    fn a_companion_names_its_master_or_signals_it() {
        let config = Config::parse("[haproxy]\nmode = \"companion\"\n").unwrap();
        let haproxy = config.haproxy.unwrap();
        assert_eq!((haproxy.mode, haproxy.master_cli), (Mode::Companion, None));
        let config = Config::parse("[haproxy]\nmode = \"companion\"\nmaster-cli = \"/run/m.sock\"\n").unwrap();
        assert_eq!(config.haproxy.unwrap().master_cli, Some("/run/m.sock".into()));
    }

    #[test]
    fn a_companion_stays_one_and_ends_no_worker() {
        let fits = |text: &str| Config::parse(text).unwrap().fits_companion();
        assert_eq!(fits("[haproxy]\nmode = \"supervised\"\n"), Ok(()));
        assert!(fits("[reload]\nhard-stop-after = \"1m\"\n").unwrap_err().contains("hard-stop-after"));
        let another = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"replace\"\nlisten = [\"0.0.0.0:80\"]\n";
        assert!(fits(another).unwrap_err().contains("its table"));
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_a_sentence() {
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
