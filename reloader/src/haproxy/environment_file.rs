//! Reads the assignments of an environment file as systemd does. Pure.
//!
//! Source: `parse_env_file_internal` of systemd's `env-file.c`, and systemd.exec(5).

use std::iter::Peekable;
use std::str::Chars;

/// The assignments, in their order. Lines that assign nothing are ignored.
pub(super) fn variables(text: &str) -> Vec<(String, String)> {
    let mut rest = text.chars().peekable();
    let mut all = Vec::new();
    while let Some(first) = rest.next() {
        match first {
            // The end of the line ends a comment, also after a backslash (from systemd 254 on).
            '#' | ';' => until_line_end(&mut rest),
            _ if first.is_whitespace() => {}
            _ => all.extend(assignment(first, &mut rest)),
        }
    }
    all
}

fn assignment(first: char, rest: &mut Peekable<Chars<'_>>) -> Option<(String, String)> {
    let mut name = String::from(first);
    while let Some(character) = rest.next_if(|next| *next != '=' && !is_line_end(*next)) {
        name.push(character);
    }
    if first == '=' || rest.next_if_eq(&'=').is_none() {
        until_line_end(rest);
        return None;
    }
    let name = name.trim_end();
    let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let value = value(rest);
    is_name.then(|| (name.to_owned(), value))
}

/// Quotes count at the beginning of a value and after another quoted part. A quoted part may have several lines.
fn value(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    loop {
        while rest.next_if(|next| next.is_whitespace() && !is_line_end(*next)).is_some() {}
        match rest.next() {
            Some('\'') => value.extend(rest.by_ref().take_while(|next| *next != '\'')),
            Some('"') => quoted(rest, &mut value),
            None => return value,
            Some(end) if is_line_end(end) => return value,
            Some(first) => {
                bare(first, rest, &mut value);
                return value;
            }
        }
    }
}

/// A backslash keeps `"`, `\`, a grave accent and `$`. It removes the end of a line, and stays before other characters.
fn quoted(rest: &mut Peekable<Chars<'_>>, value: &mut String) {
    while let Some(character) = rest.next() {
        match character {
            '"' => return,
            '\\' => match rest.next() {
                Some('\n') | None => {}
                Some(kept @ ('"' | '\\' | '`' | '$')) => value.push(kept),
                Some(other) => value.extend(['\\', other]),
            },
            _ => value.push(character),
        }
    }
}

/// The rest of a line without quotes. A backslash keeps the next character, and joins the next line.
fn bare(first: char, rest: &mut Peekable<Chars<'_>>, value: &mut String) {
    let mut next = Some(first);
    let mut kept = value.len();
    while let Some(character) = next.filter(|character| !is_line_end(*character)) {
        match character {
            '\\' => value.extend(rest.next().filter(|escaped| !is_line_end(*escaped))),
            _ => value.push(character),
        }
        if character == '\\' || !character.is_whitespace() {
            kept = value.len();
        }
        next = rest.next();
    }
    value.truncate(kept);
}

fn until_line_end(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|next| !is_line_end(*next)).is_some() {}
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        variables(text)
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn assignments_are_read_and_other_lines_ignored() {
        let text = "# a comment\n; another\nCONFIG=/a.cfg\nEXTRAOPTS=\"-m 512 \\\n-q\"\nQUOTED='a \"b\"'\n not a name=1\n\
                    export PID=2\nEMPTY=\n=x\nBARE = a b # c  \nLAST=z";
        let expected = [
            ("CONFIG", "/a.cfg"),
            ("EXTRAOPTS", "-m 512 -q"),
            ("QUOTED", "a \"b\""),
            ("EMPTY", ""),
            ("BARE", "a b # c"),
            ("LAST", "z"),
        ];
        assert_eq!(read(text), pairs(&expected));
    }

    #[test]
    fn quoted_value_may_have_several_lines() {
        assert_eq!(read("A=\"-m 512\n-q\"\nB='x\ny'\n"), pairs(&[("A", "-m 512\n-q"), ("B", "x\ny")]));
    }

    #[test]
    fn backslash_keeps_what_systemd_keeps() {
        let text = "A=\"a\\b \\\"c\\$\"\nB=a\\ \\\nb\\c\nC=x \"y\"\nD=\"x\" 'y' z\n";
        let expected = [("A", "a\\b \"c$"), ("B", "a bc"), ("C", "x \"y\""), ("D", "xyz")];
        assert_eq!(read(text), pairs(&expected));
    }

    #[test]
    fn line_after_a_comment_counts() {
        assert_eq!(read("# A=1 \\\nB=2\r\nC=3"), pairs(&[("B", "2"), ("C", "3")]));
    }
}
