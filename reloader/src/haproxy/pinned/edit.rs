//! Changes of a text. Pure.

use std::ops::Range;

/// A change of a text.
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) text: Vec<u8>,
}

/// The text with these changes, of which no two overlap.
pub(super) fn applied(text: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.range.start);
    let (mut changed, mut done) = (Vec::new(), 0);
    for Edit { range, text: new } in edits {
        changed.extend(&text[done..range.start]);
        changed.extend(new);
        done = range.end;
    }
    changed.extend(&text[done..]);
    changed
}
