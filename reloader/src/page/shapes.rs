//! Makes SVG shapes. Coordinates are rounded to a tenth of a unit.

use super::markup::{Element, element};

/// A line between two points.
pub fn line(from: (f64, f64), to: (f64, f64)) -> Element {
    let round = |value: f64| format!("{value:.1}");
    element("line").attr("x1", round(from.0)).attr("y1", round(from.1)).attr("x2", round(to.0)).attr("y2", round(to.1))
}

/// Text that begins at this point of its base line.
pub fn text(x: f64, y: f64, text: &str) -> Element {
    element("text").attr("x", format!("{x:.1}")).attr("y", format!("{y:.1}")).text(text)
}

/// The attribute `d` of a path that goes through these points.
pub fn path_data(points: &[(f64, f64)]) -> String {
    let mut data = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        data.push_str(&format!("{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" }));
    }
    data
}

/// A rectangle with this upper left corner.
pub fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Element {
    let round = |value: f64| format!("{value:.1}");
    element("rect").attr("x", round(x)).attr("y", round(y)).attr("width", round(width)).attr("height", round(height))
}
