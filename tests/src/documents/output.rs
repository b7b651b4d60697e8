/// A line without what differs between two runs: `N` for each number, one space for many.
pub fn shape(line: &str) -> String {
    let mut shape = String::new();
    for character in line.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match character {
            '0'..='9' if shape.ends_with('N') => {}
            '0'..='9' => shape.push('N'),
            other => shape.push(other),
        }
    }
    shape
}

/// Why an output is not the one that a document shows; `None` where it is. A line `…` stands for any number of lines.
pub fn difference(shown: &[String], output: &str) -> Option<String> {
    let shapes = |lines: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        lines.map(shape).filter(|line| !line.is_empty()).collect()
    };
    let (wanted, found) = (shapes(&mut shown.iter().map(String::as_str)), shapes(&mut output.lines()));
    let is_same = fits(&wanted, &found);
    (!is_same).then(|| format!("the document shows\n{}\nand the command printed\n{output}", shown.join("\n")))
}

fn fits(wanted: &[String], found: &[String]) -> bool {
    match wanted.split_first() {
        None => found.is_empty(),
        Some((line, rest)) if line == "…" => (0..=found.len()).any(|skipped| fits(rest, &found[skipped..])),
        Some((line, rest)) => found.first() == Some(line) && fits(rest, &found[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spaces_may_differ_and_words_may_not() {
        let shown = ["proven: generation 2 -> 3, 2 passed, 58 ms".to_owned(), "…".to_owned()];
        assert_eq!(difference(&shown, "proven:  generation 12 -> 13, 4 passed, 7 ms\nmore\nand more\n"), None);
        assert_eq!(difference(&shown, "proven: generation 12 -> 13, 4 passed, 7 ms\n"), None);
        assert!(difference(&shown, "proven: generation 12 -> 13, 4 steered, 7 ms\n").is_some());
        assert!(difference(&shown[..1], "proven: generation 1 -> 2, 2 passed, 58 ms\nmore\n").is_some());
    }
}
