//! Builds the report, a single HTML file without external resources. Pure.

use reloader::page::{self, Element, element};

use super::document::{Document, Row};
use super::panel::{HEIGHT, Panel};
use super::plot::drawing;
use super::table::{self, HEAD, Line};

const WIDTH: f64 = 480.0;
const STYLE: &str = include_str!("page.css");

/// The whole HTML file.
pub(super) fn html(document: &Document) -> String {
    let main = element("main")
        .child(element("p").class("target").text("cargo xtask bench"))
        .child(element("h1").text("What a reload costs"))
        .child(element("p").class("note").text(table::about(document)))
        .children(table::verdicts(document).iter().map(|said| element("p").class("note").text(said)))
        .child(element("section").child(element("div").class("scroll").child(figures(document))))
        .children(remarks(document))
        .child(around(document))
        .child(section("The ways", ways(&document.rows)));
    page::document("What a reload costs", &[page::STYLE, STYLE], element("body").child(main))
}

fn section(title: &str, content: Element) -> Element {
    element("section").child(element("h2").text(title)).child(content)
}

fn figures(document: &Document) -> Element {
    let head = element("tr").children(HEAD.map(|title| element("th").text(title)));
    let rows = table::lines(document).into_iter().zip(&document.rows).map(|(line, row)| match line {
        Line::Cells(cells) => {
            let is_bad = row.headline.as_ref().is_some_and(|headline| headline.lost > 0);
            let class = |index: usize| if is_bad && [2, 3].contains(&index) { "bad" } else { "" };
            let cells = cells.iter().enumerate().map(|(index, cell)| element("td").class(class(index)).text(cell));
            element("tr").children(cells)
        }
        Line::Reason { title, reason } => {
            let reason = element("td").attr("colspan", HEAD.len() - 1).class("said").text(reason);
            element("tr").child(element("td").text(title)).child(reason)
        }
    });
    element("table").class("bench").child(element("thead").child(head)).child(element("tbody").children(rows))
}

fn remarks(document: &Document) -> Option<Element> {
    let remarks = table::remarks(document);
    let list = element("ol").class("remarks").children(remarks.iter().map(|remark| element("li").text(remark)));
    (!remarks.is_empty()).then_some(list)
}

/// One drawing for each way.
fn around(document: &Document) -> Element {
    let rows: Vec<&Row> = document.rows.iter().collect();
    let drawings = Panel::all(&rows, WIDTH).into_iter().map(|panel| drawing(WIDTH, HEIGHT).child(panel.draw(0.0)));
    let caption = "All reloads of a way together, in steps of five milliseconds. A connection counts for the time at which it was due, \
                   from the beginning of the reload on. The line shows the slowest connection. Losses are red, and the full height of \
                   the strip is every connection that was due. The band is as wide as a reload takes.";
    element("figure")
        .child(element("h2").text("Around a reload"))
        .child(element("div").class("panels").children(drawings))
        .child(element("figcaption").text(caption))
}

fn ways(rows: &[Row]) -> Element {
    let facts = rows.iter().flat_map(|row| [element("dt").text(row.way.title()), element("dd").text(row.way.note())]);
    element("dl").class("facts").children(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Way;
    use crate::bench::document::tests::sample;

    fn parsed(text: &str) -> roxmltree::Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
    }

    #[test]
    fn page_is_well_formed_and_has_every_way() {
        let text = html(&sample());
        let document = parsed(&text);
        let count = |name: &str| document.descendants().filter(|node| node.has_tag_name(name)).count();
        assert_eq!(count("tr"), 1 + Way::ALL.len());
        // All ways but the one that was not completed.
        assert_eq!(count("svg"), Way::ALL.len() - 1);
        assert!(text.contains("waited 20s for &lt;another&gt; worker"));
        let nothing = Document { rows: Vec::new(), ..sample() };
        parsed(&html(&nothing));
    }

    #[test]
    fn drawings_stay_within_their_field() {
        let text = html(&sample());
        for svg in parsed(&text).descendants().filter(|node| node.has_tag_name("svg")) {
            for node in svg.descendants() {
                for (name, most) in [("x", WIDTH), ("x2", WIDTH), ("y", HEIGHT), ("y2", HEIGHT)] {
                    let Some(value) = node.attribute(name).map(|value| value.parse::<f64>().unwrap()) else { continue };
                    assert!((0.0..=most).contains(&value), "{name}={value}");
                }
            }
        }
    }
}
