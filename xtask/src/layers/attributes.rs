//! Reads attributes. Some say where a module's file is, or when the module is compiled. Others contain paths.

use proc_macro2::TokenTree;
use syn::{Attribute, Expr, Lit, Meta};

/// Whether `#[cfg(test)]` or `#[cfg(all(test, ...))]` keeps the item out of the product.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => asks_for_test(list.tokens.clone()),
        _ => false,
    })
}

fn asks_for_test(tokens: proc_macro2::TokenStream) -> bool {
    let mut all = false;
    for token in tokens {
        match token {
            TokenTree::Ident(word) if word == "test" => return true,
            TokenTree::Ident(word) => all = word == "all",
            TokenTree::Group(group) if all && asks_for_test(group.stream()) => return true,
            _ => {}
        }
    }
    false
}

/// The file of `#[path = "..."]`.
pub(super) fn path(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => text(&pair.value),
        _ => None,
    })
}

fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(value) => match &value.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}
