//! Writes reports: an HTML file that needs no other file, with SVG drawings in it.

mod labels;
mod markup;
mod scale;
mod shapes;

pub use labels::{axis_step, decade_label, thousands, time_label};
pub use markup::{Element, element};
pub use scale::LogScale;
pub use shapes::{line, path_data, rectangle, text};

/// The style sheet that all reports share, with colours for light and dark screens and for paper.
pub const STYLE: &str = include_str!("style.css");

/// The text of an HTML file with this title, these style sheets and this body. Its content security policy forbids it to load
/// anything.
pub fn document(title: &str, styles: &[&'static str], body: Element) -> String {
    let meta = |name: &str, content: &str| element("meta").attr("name", name).attr("content", content);
    let head = element("head")
        .child(element("meta").attr("charset", "utf-8"))
        .child(meta("viewport", "width=device-width, initial-scale=1"))
        .child(meta("color-scheme", "light dark"))
        .child(meta("generator", concat!("reloader ", env!("CARGO_PKG_VERSION"))))
        .child(
            element("meta")
                .attr("http-equiv", "Content-Security-Policy")
                .attr("content", "default-src 'none'; style-src 'unsafe-inline'"),
        )
        .child(element("title").text(title))
        .children(styles.iter().map(|style| element("style").verbatim(style)));
    format!("<!DOCTYPE html>\n{}\n", element("html").attr("lang", "en").child(head).child(body))
}
