//! Checks that reloader accepts each of its command lines in the documents.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::Arguments;

/// The paths of README.md and of all pages in docs/.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut found, mut directories) = (vec![root.join("README.md")], vec![root.join("docs")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path if path.extension().is_some_and(|extension| extension == "md") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// The command lines of the blocks that begin with `sh` or `console`.
fn command_lines(text: &str) -> Vec<String> {
    let blocks = text.split("\n```").filter_map(|block| block.strip_prefix("sh\n").or(block.strip_prefix("console\n")));
    let command = |line: &str| {
        let line = line.trim_start_matches(['$', '#']).trim_start();
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        line.starts_with("reloader ").then(|| line.to_owned())
    };
    blocks.flat_map(str::lines).filter_map(command).collect()
}

/// Splits a line as a shell does, up to a comment, a pipe or a redirection. It knows single quotes only, because the documents use no others.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            '#' | '|' | '>' | ';' if !is_quoted && word.is_empty() => break,
            ' ' if !is_quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            character => word.push(character),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[test]
fn every_command_line_in_the_documents_is_understood() {
    let mut count = 0;
    for page in pages() {
        for line in command_lines(&fs::read_to_string(&page).unwrap()) {
            if let Err(error) = Arguments::try_parse_from(words(&line)) {
                panic!("{}: {line}\n{error}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} command lines were found");
}

#[test]
fn a_line_is_split_as_by_a_shell() {
    let line = "reloader prove --reload-command 'systemctl reload haproxy'   # by anything else";
    assert_eq!(words(line), ["reloader", "prove", "--reload-command", "systemctl reload haproxy"]);
}
