//! Latency by percentile, the rare ones drawn as wide as the common ones.

use super::canvas::Canvas;
use crate::page::{Element, element, path, straight, text};
use crate::prove::findings::Findings;

/// Points for each factor of ten in rarity.
const POINTS: u32 = 24;
const HEIGHT: f64 = 30.0;
/// About the width of a letter.
const LETTER: f64 = 7.5;

/// Drawn once for each width of page; nothing where nothing was served.
pub(super) fn curve(findings: &Findings) -> Vec<Element> {
    if findings.tally.total.ok == 0 {
        return Vec::new();
    }
    Canvas::BOTH.into_iter().map(|canvas| draw(canvas, findings)).collect()
}

fn draw(canvas: Canvas, findings: &Findings) -> Element {
    let latency = &findings.tally.total.latency;
    // Rarer than one in all is nothing that was seen.
    let rarest = (latency.len() as f64).log10().max(1.0);
    let scale = canvas.decades(latency.min(), latency.max());
    let place = |rarity: f64| {
        let micros = latency.value_at_quantile(1.0 - 10_f64.powf(-rarity));
        (canvas.x(rarity / rarest), scale.place(micros))
    };
    let steps = (rarest * f64::from(POINTS)).floor() as u32;
    let mut points: Vec<(f64, f64)> = (0..=steps).map(|step| place(f64::from(step) / f64::from(POINTS))).collect();
    points.push((canvas.x(1.0), scale.place(latency.max())));
    let below: Vec<(f64, f64)> =
        points.iter().copied().chain([(canvas.right, canvas.bottom), (canvas.left, canvas.bottom)]).collect();
    canvas
        .svg(canvas.bottom + HEIGHT, "Latency by percentile")
        .child(canvas.latency_axis(&scale))
        .child(axis(canvas, rarest))
        .child(element("path").attr("d", format!("{}Z", path(&below))).class("band"))
        .child(element("path").attr("d", path(&points)).class("p50"))
}

fn axis(canvas: Canvas, rarest: f64) -> Element {
    let named = [(0.5_f64, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let more = [(0.99999, "99.999 %"), (0.999999, "99.9999 %")];
    let marks = named.into_iter().chain(more).map(|(share, name)| (-(1.0 - share).log10(), name));
    let mut written = canvas.left;
    let marks = marks.filter(|(rarity, _)| *rarity <= rarest + 0.001).map(|(rarity, name)| {
        let x = canvas.x(rarity / rarest);
        let line = straight((x, canvas.top), (x, canvas.bottom));
        let width = name.len() as f64 * LETTER;
        // Near the edge it would be cut off.
        let from = (x - width / 2.0).min(canvas.right - width);
        if from < written {
            return element("g").child(line);
        }
        written = from + width + LETTER;
        element("g").child(line).child(text(from, canvas.bottom + 18.0, name))
    });
    element("g").class("axis").children(marks)
}
