//! Reads and writes the values of `stop` and `ready`: a word, or a command as a list of words.

use rustix::process::Signal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::service::{Ready, Stop};

/// The two notations of `stop` and `ready`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a word, or a command as a list of words")]
enum WordOrCommand {
    Word(String),
    Command(Vec<String>),
}

impl Serialize for Stop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Stop::Command(words) => words.serialize(serializer),
            Stop::Signal(signal) => {
                let name = nix::sys::signal::Signal::try_from(signal.as_raw()).map(|signal| signal.as_str());
                name.map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Stop, D::Error> {
        match WordOrCommand::deserialize(deserializer)? {
            WordOrCommand::Command(command) => Ok(Stop::Command(command)),
            WordOrCommand::Word(name) => {
                let known = name.parse::<nix::sys::signal::Signal>().ok();
                let signal = known.and_then(|signal| Signal::from_named_raw(signal as i32));
                let ends = |signal: &Signal| ![Signal::KILL, Signal::STOP, Signal::CONT].contains(signal);
                signal.filter(ends).map(Stop::Signal).ok_or_else(|| {
                    D::Error::custom(format!(
                        "`{name}` is not a signal that asks a server to end: write \"SIGTERM\" or \"SIGQUIT\", or a command as a list of words"
                    ))
                })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ready {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ready, D::Error> {
        match WordOrCommand::deserialize(deserializer)? {
            WordOrCommand::Command(command) => Ok(Ready::Command(command)),
            WordOrCommand::Word(word) => match word.as_str() {
                "listening" => Ok(Ready::Listening),
                "notify" => Ok(Ready::Notify),
                other => Err(D::Error::custom(format!(
                    "`{other}` is not a kind of readiness: write \"listening\", \"notify\", or a command as a list of words"
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const WEB: &str = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"listen-fds\"\nlisten = [\"0.0.0.0:80\"]\n";

    #[test]
    fn a_word_and_a_command_are_distinguished() {
        let config = Config::parse(&format!("{WEB}stop = \"SIGQUIT\"\nready = [\"/bin/true\"]\n")).unwrap();
        assert_eq!(config.services["web"].stop, Stop::Signal(Signal::QUIT));
        assert_eq!(config.services["web"].ready, Ready::Command(vec!["/bin/true".into()]));
    }

    #[test]
    fn a_stop_is_read_back_from_a_record() {
        for stop in [Stop::Signal(Signal::QUIT), Stop::Command(vec!["/bin/stop".into(), "now".into()])] {
            let text = serde_json::to_string(&stop).unwrap();
            assert_eq!(serde_json::from_str::<Stop>(&text).unwrap(), stop, "{text}");
        }
    }
}
