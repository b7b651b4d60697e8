//! What reports are written with: one HTML file that needs nothing else, and drawings in it. Pure.

mod draw;
mod markup;
mod scale;

pub use draw::{path, rectangle, straight, text};
pub use markup::{Element, element};
pub use scale::{Decades, decade_label, step, thousands, time_label};

/// Colours in light, dark and on paper, and everything that the reports have in common.
pub const STYLE: &str = include_str!("style.css");

/// A whole file: it loads nothing, and no browser would let it.
pub fn document(title: &str, styles: &[&'static str], body: Element) -> String {
    let meta = |name: &str, content: &str| element("meta").attr("name", name).attr("content", content);
    let head = element("head")
        .child(element("meta").attr("charset", "utf-8"))
        .child(meta("viewport", "width=device-width, initial-scale=1"))
        .child(meta("color-scheme", "light dark"))
        .child(meta("generator", concat!("reloader ", env!("CARGO_PKG_VERSION"))))
        // That it needs no network is not only said.
        .child(
            element("meta")
                .attr("http-equiv", "Content-Security-Policy")
                .attr("content", "default-src 'none'; style-src 'unsafe-inline'"),
        )
        .child(element("title").text(title))
        .children(styles.iter().map(|style| element("style").verbatim(style)));
    format!("<!DOCTYPE html>\n{}\n", element("html").attr("lang", "en").child(head).child(body))
}
