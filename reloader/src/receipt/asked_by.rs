//! Tells who asked for a reload.

use serde::{Deserialize, Serialize};

/// The longest text of another process that is kept, in characters.
const LONGEST: usize = 200;

/// Who asked. A figure that is not known is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedBy {
    /// The user id of the process that asked on the control socket.
    pub uid: Option<u32>,
    /// Its pid.
    pub pid: Option<u32>,
    /// Its command line, cut at 200 characters.
    pub command: Option<String>,
    /// The text of `--comment`.
    pub comment: Option<String>,
    /// The signal, where a signal asked. The kernel does not say whose it was.
    pub signal: Option<String>,
}

impl AskedBy {
    /// A process on the control socket.
    pub(crate) fn process(
        uid: u32,
        pid: Option<u32>,
        command: Option<Vec<String>>,
        comment: Option<String>,
    ) -> AskedBy {
        let command = command.map(|words| printable(&words.join(" ")));
        AskedBy { uid: Some(uid), pid, command, comment: comment.map(|comment| printable(&comment)), signal: None }
    }

    /// A signal to the daemon.
    pub(crate) fn signal(name: &str) -> AskedBy {
        AskedBy { signal: Some(name.into()), ..AskedBy::default() }
    }
}

/// What another process has chosen is printed on terminals.
fn printable(text: &str) -> String {
    let safe = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    text.chars().take(LONGEST).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_cut_and_have_no_control_characters() {
        let words = Some(vec!["a\u{1b}[31m".to_owned(), "b\nc".to_owned()]);
        let asked = AskedBy::process(0, Some(7), words, Some("x".repeat(300)));
        assert_eq!(asked.command.unwrap(), "a\u{fffd}[31m b\u{fffd}c");
        assert_eq!(asked.comment.unwrap().len(), LONGEST);
    }
}
