//! Draws the README's plot, the worst way above the best, as an SVG file that follows the reader's choice of light or dark. Pure.

use reloader::page::{Element, element};

use super::document::Document;
use super::panel::{HEIGHT, Panel};

const WIDTH: f64 = 860.0;
/// The style of the file: an image does not inherit the style of the page that shows it.
const STYLE: &str = "svg { --page: #ffffff; --ink: #1b2230; --soft: #5b6576; --line: #dfe3e9; --blue: #2563a8; --mark: #7a5cc4; --red: #c8281e; }
@media (prefers-color-scheme: dark) {
  svg { --page: #0d1117; --ink: #e8ecf2; --soft: #9aa6b6; --line: #303947; --blue: #6fb0f2; --mark: #a98bf0; --red: #ff6f61; }
}
text { font: 13px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: var(--soft); }
text.title { fill: var(--ink); font-size: 15px; font-weight: 600; }
.axis line { stroke: var(--line); }
.reload { fill: var(--mark); fill-opacity: .22; }
.p50 { fill: none; stroke: var(--blue); stroke-width: 1.6; stroke-linejoin: round; }
.loss { fill: var(--red); }
";

/// The plot; none if fewer than two ways can be compared.
pub(super) fn svg(document: &Document) -> Option<String> {
    let ranked = document.ranked();
    let (worst, best) = (*ranked.first()?, *ranked.last()?);
    if worst.way == best.way {
        return None;
    }
    let panels = Panel::all(&[worst, best], WIDTH);
    let drawing = drawing(WIDTH, HEIGHT * panels.len() as f64)
        .attr("width", WIDTH)
        .attr("aria-label", format!("{} and {} around a reload", worst.way.title(), best.way.title()))
        .child(element("style").verbatim(STYLE))
        .children(panels.iter().enumerate().map(|(index, panel)| panel.draw(HEIGHT * index as f64)));
    Some(format!("{drawing}\n"))
}

/// An empty drawing.
pub(super) fn drawing(width: f64, height: f64) -> Element {
    element("svg")
        .attr("xmlns", "http://www.w3.org/2000/svg")
        .attr("viewBox", format!("0 0 {width} {height}"))
        .attr("role", "img")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::tests::sample;

    #[test]
    fn worst_way_is_above_the_best_with_its_losses_in_red() {
        let text = svg(&sample()).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let titles: Vec<_> = document
            .descendants()
            .filter(|node| node.attribute("class") == Some("title"))
            .filter_map(|node| node.text())
            .collect();
        assert_eq!(titles, ["kill, then start", "reloader, passed"]);
        let bars = document.descendants().filter(|node| node.attribute("class") == Some("loss")).count();
        assert_eq!(bars, 1);
    }

    #[test]
    fn single_way_has_no_plot() {
        let mut one = sample();
        one.rows.truncate(1);
        assert!(svg(&one).is_none());
        one.rows.clear();
        assert!(svg(&one).is_none());
    }
}
