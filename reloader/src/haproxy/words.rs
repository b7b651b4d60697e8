//! Splits a line of HAProxy's configuration into words, and knows where each letter of a word is in the line. Pure.

use std::ops::Range;

/// A word as HAProxy reads it: without quotes and backslashes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Where each byte of `text` is in the line.
    offsets: Vec<usize>,
    /// The bytes of the line that are the word as it is written, with its quotes and backslashes.
    pub(super) range: Range<usize>,
}

impl Word {
    /// Where byte `index` of the text is in the line. `None` if the word is not UTF-8, or has no such byte.
    pub(super) fn offset(&self, index: usize) -> Option<usize> {
        self.offsets.get(index).copied().filter(|_| self.offsets.len() == self.text.len())
    }
}

/// Splits a line as HAProxy does: quotes, backslashes, `#` comments.
pub(super) fn words(line: &str) -> Vec<String> {
    words_before(line, Some(b'#'))
}

/// Splits a line by the same rules, up to this character where it is outside quotes.
pub(super) fn words_before(line: &str, comment: Option<u8>) -> Vec<String> {
    located_words_before(line.as_bytes(), comment).into_iter().map(|word| word.text).collect()
}

/// Splits a line as HAProxy does, and says where the words are.
pub(super) fn located_words(line: &[u8]) -> Vec<Word> {
    located_words_before(line, Some(b'#'))
}

fn located_words_before(line: &[u8], comment: Option<u8>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word: Option<Unfinished> = None;
    let mut quote = None;
    let mut bytes = line.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, quote) {
            (b'\\', None | Some(b'"')) => {
                let word = word.get_or_insert_with(|| Unfinished::begin(at));
                word.bytes.extend(bytes.next().map(|(_, escaped)| (at, escaped)));
            }
            (_, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_with(|| Unfinished::begin(at));
            }
            (_, None) if Some(byte) == comment => {
                words.extend(word.take().map(|word| word.finish(at)));
                break;
            }
            (_, None) if byte.is_ascii_whitespace() => words.extend(word.take().map(|word| word.finish(at))),
            _ => word.get_or_insert_with(|| Unfinished::begin(at)).bytes.push((at, byte)),
        }
    }
    words.extend(word.map(|word| word.finish(line.len())));
    words
}

/// A word whose end was not seen yet.
struct Unfinished {
    start: usize,
    /// Its bytes, each with its place in the line.
    bytes: Vec<(usize, u8)>,
}

impl Unfinished {
    fn begin(start: usize) -> Unfinished {
        Unfinished { start, bytes: Vec::new() }
    }

    fn finish(self, end: usize) -> Word {
        let (offsets, text): (Vec<usize>, Vec<u8>) = self.bytes.into_iter().unzip();
        Word { text: String::from_utf8_lossy(&text).into_owned(), offsets, range: self.start..end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_quoted_and_escaped_words_are_located() {
        let line = b"bind \"a b\" c\\ d 'e'f # g";
        let found = located_words(line);
        let texts: Vec<&str> = found.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["bind", "a b", "c d", "ef"]);
        let first: Vec<Option<usize>> = found.iter().map(|word| word.offset(0)).collect();
        assert_eq!(first, [Some(0), Some(6), Some(11), Some(17)]);
        assert_eq!((found[2].offset(1), found[2].offset(2)), (Some(12), Some(14)));
        assert_eq!((found[1].range.clone(), found[3].range.clone()), (5..10, 16..20));
        assert_eq!(located_words(b"a\xff")[0].offset(0), None);
        assert_eq!(words("  "), [""; 0]);
    }
}
