//! Shapes of SVG, to a tenth of a unit.

use super::markup::{Element, element};

/// A line between two points.
pub fn straight(from: (f64, f64), to: (f64, f64)) -> Element {
    let round = |value: f64| format!("{value:.1}");
    element("line").attr("x1", round(from.0)).attr("y1", round(from.1)).attr("x2", round(to.0)).attr("y2", round(to.1))
}

/// Words that begin at a point of their base line.
pub fn text(x: f64, y: f64, text: &str) -> Element {
    element("text").attr("x", format!("{x:.1}")).attr("y", format!("{y:.1}")).text(text)
}

/// What `d` of a path is, through points, from one to the next.
pub fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        path.push_str(&format!("{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" }));
    }
    path
}

/// A rectangle by its upper left corner.
pub fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Element {
    let round = |value: f64| format!("{value:.1}");
    element("rect").attr("x", round(x)).attr("y", round(y)).attr("width", round(width)).attr("height", round(height))
}
