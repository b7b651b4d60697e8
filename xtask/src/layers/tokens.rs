//! Finds paths in token streams: the arguments of macros and of attributes, which `syn` leaves as they are.

use proc_macro2::{Spacing, TokenStream, TokenTree};

/// A path as it is written, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// All paths in the tokens, single names included: `crate::config::read` in `assert!(crate::config::read(x))`.
pub(super) fn paths(tokens: TokenStream) -> Vec<Written> {
    scan(tokens, false)
}

/// The same for an attribute, where a string can be a path: `#[serde(default = "span::default")]`.
pub(super) fn paths_and_strings(tokens: TokenStream) -> Vec<Written> {
    scan(tokens, true)
}

fn scan(tokens: TokenStream, strings: bool) -> Vec<Written> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => found.extend(scan(group.stream(), strings)),
            TokenTree::Literal(literal) if strings => found.extend(quoted(literal)),
            TokenTree::Ident(_) => {
                let (path, end) = path_at(&tokens, at);
                if !follows_a_dot_or_colons(&tokens[..at]) {
                    found.push(Written { path, line: tokens[at].span().start().line });
                }
                at = end;
                continue;
            }
            TokenTree::Literal(_) | TokenTree::Punct(_) => {}
        }
        at += 1;
    }
    found
}

/// The names from `start` on that `::` joins, and where they end.
fn path_at(tokens: &[TokenTree], start: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[start].to_string()];
    let mut at = start + 1;
    while at + 2 < tokens.len() && is_colons(&tokens[at..at + 2]) {
        let TokenTree::Ident(name) = &tokens[at + 2] else { break };
        path.push(name.to_string());
        at += 3;
    }
    (path, at)
}

fn is_colons(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(first), TokenTree::Punct(second)]
        if first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':')
}

/// Whether the tokens end with a dot or `::`, so that the next name does not begin a path. In `x.name` it is a field or a method. In
/// `<T>::name` and `::name` the path begins earlier.
fn follows_a_dot_or_colons(before: &[TokenTree]) -> bool {
    let dot = matches!(before.last(), Some(TokenTree::Punct(last)) if last.as_char() == '.');
    let range = matches!(before, [.., TokenTree::Punct(first), TokenTree::Punct(_)] if first.as_char() == '.');
    dot && !range || before.len() >= 2 && is_colons(&before[before.len() - 2..])
}

fn quoted(literal: &proc_macro2::Literal) -> Option<Written> {
    let syn::Lit::Str(text) = syn::parse_str(&literal.to_string()).ok()? else { return None };
    let path: syn::Path = text.parse().ok()?;
    let path: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    (path.len() > 1).then(|| Written { path, line: literal.span().start().line })
}
