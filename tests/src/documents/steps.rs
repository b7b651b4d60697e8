/// A command and what the document shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// For `sh -c`.
    pub command: String,
    /// Its exit status: 0, or what the document shows for `echo $?` behind it.
    pub status: i32,
    /// The lines of its output, empty where the document shows none.
    pub shown: Vec<String>,
}

/// `$` and `#` are prompts, everything else is output.
pub(super) fn of_console(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
        match (command, steps.last_mut()) {
            (Some("echo $?"), Some(before)) => {
                let status = lines.next().and_then(|status| status.parse().ok());
                before.status = status.unwrap_or_else(|| panic!("no exit status behind `{}`", before.command));
            }
            (Some(command), _) => steps.push(Step { command: command.to_owned(), status: 0, shown: Vec::new() }),
            (None, Some(step)) => step.shown.push(line.to_owned()),
            (None, None) => panic!("a console block begins with output: {line}"),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_begin_commands_and_echo_gives_the_status() {
        let steps = of_console("# one --word   # a comment\nsaid\n…\n$ two\n# echo $?\n3\n");
        let step = |command: &str, status, shown: &[&str]| Step {
            command: command.into(),
            status,
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(steps, [step("one --word   # a comment", 0, &["said", "…"]), step("two", 3, &[])]);
    }
}
