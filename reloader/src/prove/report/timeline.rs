//! Latency over time, with the reloads and what was lost.

use std::time::Duration;

use super::canvas::Canvas;
use crate::page::{Decades, Element, element, path, rectangle, step, straight, text, thousands, time_label};
use crate::prove::findings::{Findings, Reloaded};
use crate::prove::timeline::Point;
use crate::prove::verdict::losses_by_reload;
use crate::units::format_duration;

/// The strip below the latencies in which losses stand.
const STRIP_GAP: f64 = 16.0;
const STRIP: f64 = 44.0;
/// The highest of them.
const BAR: f64 = 32.0;
/// Below it the time.
const FOOT: f64 = 26.0;
/// Of fewer connections the 99th percentile is the slowest, and a line through it is noise.
const ENOUGH: u64 = 100;
/// Fewer points make no curve.
const FEWEST_POINTS: usize = 60;
/// Marks that take more of the field than this would hide what they are to explain: then they stand at its edge.
const CROWDED: f64 = 0.15;
/// How far a mark reaches above the field.
const ABOVE: f64 = 10.0;
/// A mark that is thinner cannot be seen.
const THINNEST: f64 = 1.5;

struct Drawing<'a> {
    canvas: Canvas,
    findings: &'a Findings,
    /// As fine as they are known: what was slowest, and what was lost.
    points: Vec<Point>,
    bucket: Duration,
    /// Coarser, for percentiles.
    curve: Vec<Point>,
    curve_bucket: Duration,
    scale: Decades,
    lasted: f64,
}

/// Drawn once for each width of page.
pub(super) fn timeline(findings: &Findings) -> Vec<Element> {
    Canvas::BOTH.into_iter().map(|canvas| Drawing::new(canvas, findings).draw()).collect()
}

impl<'a> Drawing<'a> {
    fn new(canvas: Canvas, findings: &'a Findings) -> Drawing<'a> {
        let timeline = &findings.tally.timeline;
        let points = timeline.points(1);
        let together = together(&points);
        let least = points.iter().filter_map(|point| point.p50).min().unwrap_or(100);
        let most = points.iter().filter_map(|point| point.max).max().unwrap_or(1_000);
        let lasted = findings.lasted.as_secs_f64().max(0.1);
        let scale = canvas.decades(least, most);
        let bucket = timeline.width();
        let (curve, curve_bucket) = (timeline.points(together), bucket * together as u32);
        Drawing { canvas, findings, points, bucket, curve, curve_bucket, scale, lasted }
    }

    fn draw(&self) -> Element {
        let label = "Latency of connections over time, with the moments of the reloads and what was lost";
        self.canvas
            .svg(self.foot() + FOOT, label)
            .child(self.reloads())
            .child(self.canvas.latency_axis(&self.scale))
            .child(self.time_axis())
            .child(self.latencies())
            .child(self.losses())
    }

    fn strip_top(&self) -> f64 {
        self.canvas.bottom + STRIP_GAP
    }

    fn foot(&self) -> f64 {
        self.strip_top() + STRIP
    }

    fn x(&self, time: Duration) -> f64 {
        self.canvas.x(time.as_secs_f64() / self.lasted)
    }

    /// In the middle of a bucket.
    fn place(&self, point: &Point, bucket: Duration, micros: u64) -> (f64, f64) {
        (self.x(point.from + bucket / 2), self.scale.place(micros))
    }

    fn on_curve(&self, point: &Point, micros: u64) -> (f64, f64) {
        self.place(point, self.curve_bucket, micros)
    }

    fn reloads(&self) -> Element {
        let reloads = &self.findings.reloads;
        let losses = losses_by_reload(self.findings);
        let width = |reload: &Reloaded| (self.x(reload.at + reload.took) - self.x(reload.at)).max(THINNEST);
        let covered: f64 = reloads.iter().map(width).sum();
        let is_crowded = covered > CROWDED * (self.canvas.right - self.canvas.left);
        let marks = reloads.iter().enumerate().map(|(index, reload)| {
            let lost = losses.as_ref().map(|losses| losses[index]);
            let title = format!(
                "reload {} at {}, {}, took {}{}",
                index + 1,
                format_duration(reload.at),
                reload.attempt.way.word(),
                format_duration(reload.took),
                lost.map(|lost| format!(", {lost} lost")).unwrap_or_default()
            );
            let top = self.canvas.top - ABOVE;
            let bottom = if is_crowded { top + ABOVE * 0.8 } else { self.foot() };
            rectangle(self.x(reload.at), top, width(reload), bottom - top)
                .class(if lost > Some(0) { "reload losing" } else { "reload" })
                .child(element("title").text(title))
        });
        element("g").children(marks)
    }

    fn time_axis(&self) -> Element {
        let step = step(self.lasted, self.canvas.labels);
        let count = (self.lasted / step).floor() as u32;
        let marks = (0..=count).map(|index| {
            let seconds = f64::from(index) * step;
            let x = self.canvas.x(seconds / self.lasted);
            let anchor = if index == 0 { "start" } else { "middle" };
            let label = text(x, self.foot() + 18.0, &time_label(seconds, step)).attr("text-anchor", anchor);
            // A label in the corner would be cut off.
            let label = if x > self.canvas.right - 14.0 { None } else { Some(label) };
            element("g").child(straight((x, self.foot()), (x, self.foot() + 5.0))).children(label)
        });
        element("g").class("axis").child(self.canvas.across(self.foot())).children(marks)
    }

    fn latencies(&self) -> Element {
        let slowest = self.points.iter().filter_map(|point| Some((point, point.max?)));
        let dots = slowest.map(|(point, max)| {
            let (x, y) = self.place(point, self.bucket, max);
            let class = if point.late > 0 { "slowest late" } else { "slowest" };
            let radius = if point.late > 0 { 3.0 } else { 1.4 };
            element("circle").attr("cx", format!("{x:.1}")).attr("cy", format!("{y:.1}")).attr("r", radius).class(class)
        });
        let runs: Vec<Vec<&Point>> = self.runs();
        let line = |class: &'static str, figure: fn(&Point) -> Option<u64>| {
            runs.iter().map(move |run| {
                let through: Vec<(f64, f64)> =
                    run.iter().filter_map(|point| Some(self.on_curve(point, figure(point)?))).collect();
                element("path").attr("d", path(&through)).class(class)
            })
        };
        element("g")
            .children(dots)
            .children(runs.iter().map(|run| self.band(run)))
            .children(line("p99", |point| point.p99))
            .children(line("p50", |point| point.p50))
    }

    /// Between the half and the ninety-ninth.
    fn band(&self, run: &[&Point]) -> Element {
        let upper = run.iter().filter_map(|point| Some(self.on_curve(point, point.p99?)));
        let lower = run.iter().rev().filter_map(|point| Some(self.on_curve(point, point.p50?)));
        let around: Vec<(f64, f64)> = upper.chain(lower).collect();
        element("path").attr("d", format!("{}Z", path(&around))).class("band")
    }

    /// Points that follow each other without a gap in which nothing was served.
    fn runs(&self) -> Vec<Vec<&Point>> {
        let mut runs: Vec<Vec<&Point>> = Vec::new();
        let mut last: Option<Duration> = None;
        for point in self.curve.iter().filter(|point| point.p50.is_some()) {
            // At a low rate a bucket may be empty for no other reason.
            let is_next = last.is_some_and(|last| point.from - last <= self.curve_bucket * 3);
            match runs.last_mut() {
                Some(run) if is_next => run.push(point),
                _ => runs.push(vec![point]),
            }
            last = Some(point.from);
        }
        runs
    }

    fn losses(&self) -> Element {
        let most = self.points.iter().map(|point| point.failed).max().unwrap_or(0);
        let bars = self.points.iter().filter(|point| point.failed > 0).map(|point| self.loss(point, most));
        let strip = element("g").child(self.canvas.across(self.strip_top()).class("edge")).children(bars);
        if most == 0 {
            let middle = f64::midpoint(self.strip_top(), self.foot()) + 5.0;
            return strip.child(text(self.canvas.left + 6.0, middle, "nothing was lost").class("none"));
        }
        let beside =
            |y: f64, said: &str| text(self.canvas.left - 8.0, y, said).attr("text-anchor", "end").class("lost");
        let unit = format!("lost in {} at most", format_duration(self.bucket));
        strip
            .child(beside(self.foot() - BAR + 5.0, &thousands(most)).child(element("title").text(unit)))
            .child(beside(self.foot(), "lost"))
    }

    fn loss(&self, point: &Point, most: u64) -> Element {
        let height = (BAR * point.failed as f64 / most as f64).max(4.0);
        let (from, to) = (self.x(point.from), self.x(point.from + self.bucket));
        let title = format!("{} of {} lost at {}", point.failed, point.connections, format_duration(point.from));
        rectangle(from, self.foot() - height, (to - from).max(THINNEST + 0.5), height)
            .class("loss")
            .child(element("title").text(title))
    }
}

/// So many buckets have enough connections for percentiles, as long as that leaves a curve.
fn together(points: &[Point]) -> usize {
    let connections: u64 = points.iter().map(|point| point.connections).sum();
    let each = connections.checked_div(points.len() as u64).unwrap_or(0).max(1);
    (ENOUGH.div_ceil(each) as usize).min(points.len() / FEWEST_POINTS).max(1)
}
