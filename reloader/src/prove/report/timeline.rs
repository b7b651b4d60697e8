//! Draws the chart of latency over time, with the reloads and the losses.

use std::time::Duration;

use super::canvas::Canvas;
use crate::page::{Element, LogScale, axis_step, element, line, path_data, rectangle, text, thousands, time_label};
use crate::prove::attribution::losses_per_reload;
use crate::prove::findings::{Findings, TimedReload};
use crate::prove::timeline::Point;
use crate::units::format_duration;

/// The distance between the field of latencies and the strip of losses.
const STRIP_GAP: f64 = 16.0;
const STRIP_HEIGHT: f64 = 44.0;
/// The height of the highest bar in the strip.
const BAR_HEIGHT: f64 = 32.0;
/// The height of the time axis below the strip.
const AXIS_HEIGHT: f64 = 26.0;
/// With fewer connections the 99th percentile is the slowest connection, and a line through it is noise.
const MIN_CONNECTIONS_PER_POINT: u64 = 100;
/// Fewer points do not make a curve.
const MIN_POINTS: usize = 60;
/// Marks of reloads that cover a larger share of the field would hide the latencies. Such marks are drawn only at the edge of the field.
const MAX_COVERED_SHARE: f64 = 0.15;
/// How far the mark of a reload reaches above the field.
const MARK_OVERHANG: f64 = 10.0;
/// A narrower mark cannot be seen.
const MIN_MARK_WIDTH: f64 = 1.5;

struct Drawing<'a> {
    canvas: Canvas,
    findings: &'a Findings,
    /// One point per bucket, for the slowest connections and the losses.
    points: Vec<Point>,
    bucket: Duration,
    /// Several buckets per point, for the percentiles.
    curve: Vec<Point>,
    curve_bucket: Duration,
    scale: LogScale,
    /// Seconds.
    duration: f64,
}

/// The chart, drawn once for each width of a page.
pub(super) fn timeline(findings: &Findings) -> Vec<Element> {
    Canvas::ALL.into_iter().map(|canvas| Drawing::new(canvas, findings).draw()).collect()
}

impl<'a> Drawing<'a> {
    fn new(canvas: Canvas, findings: &'a Findings) -> Drawing<'a> {
        let timeline = &findings.tally.timeline;
        let points = timeline.points(1);
        let buckets_per_point = buckets_per_point(&points);
        let least = points.iter().filter_map(|point| point.p50).min().unwrap_or(100);
        let most = points.iter().filter_map(|point| point.max).max().unwrap_or(1_000);
        let duration = findings.duration.as_secs_f64().max(0.1);
        let scale = canvas.latency_scale(least, most);
        let bucket = timeline.width();
        let (curve, curve_bucket) = (timeline.points(buckets_per_point), bucket * buckets_per_point as u32);
        Drawing { canvas, findings, points, bucket, curve, curve_bucket, scale, duration }
    }

    fn draw(&self) -> Element {
        let label = "Latency of connections over time, with the reloads and the losses";
        self.canvas
            .svg(self.foot() + AXIS_HEIGHT, label)
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
        self.strip_top() + STRIP_HEIGHT
    }

    fn x(&self, time: Duration) -> f64 {
        self.canvas.x(time.as_secs_f64() / self.duration)
    }

    /// The position of a latency, in the middle of the bucket.
    fn position(&self, point: &Point, bucket: Duration, micros: u64) -> (f64, f64) {
        (self.x(point.from + bucket / 2), self.scale.position(micros))
    }

    fn on_curve(&self, point: &Point, micros: u64) -> (f64, f64) {
        self.position(point, self.curve_bucket, micros)
    }

    fn reloads(&self) -> Element {
        let reloads = &self.findings.reloads;
        let losses = losses_per_reload(self.findings);
        let width =
            |reload: &TimedReload| (self.x(reload.begin + reload.took) - self.x(reload.begin)).max(MIN_MARK_WIDTH);
        let covered: f64 = reloads.iter().map(width).sum();
        let is_crowded = covered > MAX_COVERED_SHARE * (self.canvas.right - self.canvas.left);
        let marks = reloads.iter().enumerate().map(|(index, reload)| {
            let lost = losses.as_ref().map(|losses| losses[index]);
            let title = format!(
                "reload {} at {}, {}, took {}{}",
                index + 1,
                format_duration(reload.begin),
                reload.report.result.word(),
                format_duration(reload.took),
                lost.map(|lost| format!(", {lost} lost")).unwrap_or_default()
            );
            let top = self.canvas.top - MARK_OVERHANG;
            let bottom = if is_crowded { top + MARK_OVERHANG * 0.8 } else { self.foot() };
            rectangle(self.x(reload.begin), top, width(reload), bottom - top)
                .class(if lost > Some(0) { "reload losing" } else { "reload" })
                .child(element("title").text(title))
        });
        element("g").children(marks)
    }

    fn time_axis(&self) -> Element {
        let step = axis_step(self.duration, self.canvas.labels);
        let count = (self.duration / step).floor() as u32;
        let marks = (0..=count).map(|index| {
            let seconds = f64::from(index) * step;
            let x = self.canvas.x(seconds / self.duration);
            let anchor = if index == 0 { "start" } else { "middle" };
            let label = text(x, self.foot() + 18.0, &time_label(seconds, step)).attr("text-anchor", anchor);
            // A label in the corner would be cut off.
            let label = if x > self.canvas.right - 14.0 { None } else { Some(label) };
            element("g").child(line((x, self.foot()), (x, self.foot() + 5.0))).children(label)
        });
        element("g").class("axis").child(self.canvas.across(self.foot())).children(marks)
    }

    fn latencies(&self) -> Element {
        let slowest = self.points.iter().filter_map(|point| Some((point, point.max?)));
        let dots = slowest.map(|(point, max)| {
            let (x, y) = self.position(point, self.bucket, max);
            let class = if point.late > 0 { "slowest late" } else { "slowest" };
            let radius = if point.late > 0 { 3.0 } else { 1.4 };
            element("circle").attr("cx", format!("{x:.1}")).attr("cy", format!("{y:.1}")).attr("r", radius).class(class)
        });
        let runs: Vec<Vec<&Point>> = self.runs();
        let curve = |class: &'static str, figure: fn(&Point) -> Option<u64>| {
            runs.iter().map(move |run| {
                let through: Vec<(f64, f64)> =
                    run.iter().filter_map(|point| Some(self.on_curve(point, figure(point)?))).collect();
                element("path").attr("d", path_data(&through)).class(class)
            })
        };
        element("g")
            .children(dots)
            .children(runs.iter().map(|run| self.band(run)))
            .children(curve("p99", |point| point.p99))
            .children(curve("p50", |point| point.p50))
    }

    /// The area between the median and the 99th percentile.
    fn band(&self, run: &[&Point]) -> Element {
        let upper = run.iter().filter_map(|point| Some(self.on_curve(point, point.p99?)));
        let lower = run.iter().rev().filter_map(|point| Some(self.on_curve(point, point.p50?)));
        let around: Vec<(f64, f64)> = upper.chain(lower).collect();
        element("path").attr("d", format!("{}Z", path_data(&around))).class("band")
    }

    /// Splits the points into runs. Between two runs nothing was served for some time.
    fn runs(&self) -> Vec<Vec<&Point>> {
        let mut runs: Vec<Vec<&Point>> = Vec::new();
        let mut last: Option<Duration> = None;
        for point in self.curve.iter().filter(|point| point.p50.is_some()) {
            // At a low rate a bucket may be empty although everything is served. So up to two empty points do not end a
            // run.
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
            |y: f64, label: &str| text(self.canvas.left - 8.0, y, label).attr("text-anchor", "end").class("lost");
        let unit = format!("lost in {} at most", format_duration(self.bucket));
        strip
            .child(beside(self.foot() - BAR_HEIGHT + 5.0, &thousands(most)).child(element("title").text(unit)))
            .child(beside(self.foot(), "lost"))
    }

    fn loss(&self, point: &Point, most: u64) -> Element {
        let height = (BAR_HEIGHT * point.failed as f64 / most as f64).max(4.0);
        let (from, to) = (self.x(point.from), self.x(point.from + self.bucket));
        let title = format!("{} of {} lost at {}", point.failed, point.connections, format_duration(point.from));
        rectangle(from, self.foot() - height, (to - from).max(MIN_MARK_WIDTH + 0.5), height)
            .class("loss")
            .child(element("title").text(title))
    }
}

/// The number of buckets in one point of the curve. It gives a point enough connections for percentiles, but leaves the
/// curve enough points.
fn buckets_per_point(points: &[Point]) -> usize {
    let connections: u64 = points.iter().map(|point| point.connections).sum();
    let each = connections.checked_div(points.len() as u64).unwrap_or(0).max(1);
    (MIN_CONNECTIONS_PER_POINT.div_ceil(each) as usize).min(points.len() / MIN_POINTS).max(1)
}
