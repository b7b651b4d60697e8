//! Reads the directives of nginx's configuration, with the files that it includes.

use std::path::{Path, PathBuf};

/// How deep files may include others. A file that includes itself ends there.
const DEEPEST_INCLUDE: usize = 8;

/// A directive with its words, and with what stands in its block.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) words: Vec<String>,
    /// File and line of its end, or of the beginning of its block.
    pub(super) place: String,
    pub(super) block: Vec<Directive>,
}

/// Reads a configuration file. What cannot be read is left out.
pub(super) fn read(main: &Path) -> Vec<Directive> {
    read_included(main, main, 0)
}

/// Reads one of the files. Names of files are relative to the directory of `main`.
fn read_included(file: &Path, main: &Path, depth: usize) -> Vec<Directive> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let expand = |directive: Directive| match &directive.words[..] {
        [word, pattern] if word == "include" => {
            let pattern = main.parent().unwrap_or(Path::new("/")).join(pattern);
            let files = if depth < DEEPEST_INCLUDE { matching(&pattern) } else { Vec::new() };
            files.iter().flat_map(|file| read_included(file, main, depth + 1)).collect()
        }
        _ => vec![directive],
    };
    block(&mut tokens(&text).into_iter(), file, &expand)
}

/// The files of a pattern with one `*` in its last part, in their order.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let fits =
        |name: &str| name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(fits)).map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Reads directives up to the end of their block. `expand` replaces an `include` by what is in its files.
fn block(
    tokens: &mut std::vec::IntoIter<(usize, Token)>,
    file: &Path,
    expand: &impl Fn(Directive) -> Vec<Directive>,
) -> Vec<Directive> {
    let mut directives = Vec::new();
    let mut words = Vec::new();
    while let Some((line, token)) = tokens.next() {
        let block = match token {
            Token::Word(word) => {
                words.push(word);
                continue;
            }
            Token::Close => break,
            Token::End => Vec::new(),
            Token::Open => block(tokens, file, expand),
        };
        let words = std::mem::take(&mut words);
        directives.extend(expand(Directive { words, place: format!("{}:{line}", file.display()), block }));
    }
    directives
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Splits a text as nginx does (`ngx_conf_read_token`), each token with its line. The braces of `${NAME}` belong to a word.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (token, length) = match letter {
            ';' => (Some(Token::End), 1),
            '{' => (Some(Token::Open), 1),
            '}' => (Some(Token::Close), 1),
            '#' => (None, rest.find('\n').unwrap_or(rest.len())),
            _ if letter.is_whitespace() => (None, letter.len_utf8()),
            _ => {
                let (word, length) = word(rest);
                (Some(Token::Word(word)), length)
            }
        };
        tokens.extend(token.map(|token| (line, token)));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The word with which a text begins, and its length in bytes as it is written.
fn word(text: &str) -> (String, usize) {
    let quote = text.chars().next().filter(|letter| matches!(letter, '"' | '\''));
    let mut word = String::new();
    let mut letters = text.char_indices().skip(quote.iter().count()).peekable();
    let mut is_in_name = false;
    while let Some((place, letter)) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next().map(|(_, escaped)| escaped)),
            _ if Some(letter) == quote => return (word, place + 1),
            '{' if word.ends_with('$') => {
                is_in_name = true;
                word.push(letter);
            }
            '}' if is_in_name => {
                is_in_name = false;
                word.push(letter);
            }
            _ if quote.is_none() && (letter.is_whitespace() || matches!(letter, ';' | '{' | '}')) => {
                return (word, place);
            }
            _ => word.push(letter),
        }
    }
    (word, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_nginx_reads() {
        let text = "a 'b ;c' \"d\\\"e\" f\\;g ${h}i # j;\n;k{}";
        let words: Vec<Token> = tokens(text).into_iter().map(|(_, token)| token).collect();
        let word = |text: &str| Token::Word(text.into());
        let expected = [word("a"), word("b ;c"), word("d\"e"), word("f;g"), word("${h}i"), Token::End, word("k")];
        assert_eq!(words, expected.into_iter().chain([Token::Open, Token::Close]).collect::<Vec<_>>());
        assert_eq!(tokens("a\n\"b\nc\"\nd")[2], (4, word("d")));
    }

    #[test]
    fn included_files_are_read_in_their_order_and_missing_ones_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("nginx.conf", "include sites/*.conf; include gone; include nginx.conf; z;");
        std::fs::create_dir(directory.path().join("sites")).unwrap();
        write("sites/b.conf", "b { c; }");
        write("sites/a.conf", "\na;");
        write("sites/a.txt", "d;");
        let found = read(&directory.path().join("nginx.conf"));
        let words: Vec<&str> = found.iter().map(|directive| directive.words[0].as_str()).collect();
        assert_eq!(words[..2], ["a", "b"]);
        assert_eq!(words.iter().filter(|word| **word == "z").count(), DEEPEST_INCLUDE + 1);
        assert!(found[0].place.ends_with("/sites/a.conf:2") && found[1].block[0].words == ["c"], "{found:?}");
    }
}
