//! Draws the chart of latency by percentile. Each factor of ten in rarity (90 %, 99 %, 99.9 %) has the same width.

use super::canvas::Canvas;
use crate::page::{Element, element, line, path_data, text};
use crate::prove::findings::Findings;

/// Points for each factor of ten in rarity.
const POINTS_PER_DECADE: u32 = 24;
/// The height of the axis below the field.
const AXIS_HEIGHT: f64 = 30.0;
/// The approximate width of a letter.
const LETTER_WIDTH: f64 = 7.5;

/// The chart, drawn once for each width of a page. Empty if nothing was served.
pub(super) fn curve(findings: &Findings) -> Vec<Element> {
    if findings.tally.total.ok == 0 {
        return Vec::new();
    }
    Canvas::ALL.into_iter().map(|canvas| draw(canvas, findings)).collect()
}

fn draw(canvas: Canvas, findings: &Findings) -> Element {
    let latency = &findings.tally.total.latency;
    // The axis ends at one connection of all, because nothing rarer was observed.
    let rarest = (latency.len() as f64).log10().max(1.0);
    let scale = canvas.latency_scale(latency.min(), latency.max());
    let point = |rarity: f64| {
        let micros = latency.value_at_quantile(1.0 - 10_f64.powf(-rarity));
        (canvas.x(rarity / rarest), scale.position(micros))
    };
    let steps = (rarest * f64::from(POINTS_PER_DECADE)).floor() as u32;
    let mut points: Vec<(f64, f64)> =
        (0..=steps).map(|step| point(f64::from(step) / f64::from(POINTS_PER_DECADE))).collect();
    points.push((canvas.x(1.0), scale.position(latency.max())));
    let below: Vec<(f64, f64)> =
        points.iter().copied().chain([(canvas.right, canvas.bottom), (canvas.left, canvas.bottom)]).collect();
    canvas
        .svg(canvas.bottom + AXIS_HEIGHT, "Latency by percentile")
        .child(canvas.latency_axis(&scale))
        .child(axis(canvas, rarest))
        .child(element("path").attr("d", format!("{}Z", path_data(&below))).class("band"))
        .child(element("path").attr("d", path_data(&points)).class("p50"))
}

fn axis(canvas: Canvas, rarest: f64) -> Element {
    let named = [(0.5_f64, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")];
    let more = [(0.99999, "99.999 %"), (0.999999, "99.9999 %")];
    let marks = named.into_iter().chain(more).map(|(share, name)| (-(1.0 - share).log10(), name));
    let mut written = canvas.left;
    let marks = marks.filter(|(rarity, _)| *rarity <= rarest + 0.001).map(|(rarity, name)| {
        let x = canvas.x(rarity / rarest);
        let rule = line((x, canvas.top), (x, canvas.bottom));
        let width = name.len() as f64 * LETTER_WIDTH;
        // A centred label near the edge would be cut off, so the label is moved inwards.
        let from = (x - width / 2.0).min(canvas.right - width);
        if from < written {
            return element("g").child(rule);
        }
        written = from + width + LETTER_WIDTH;
        element("g").child(rule).child(text(from, canvas.bottom + 18.0, name))
    });
    element("g").class("axis").children(marks)
}
