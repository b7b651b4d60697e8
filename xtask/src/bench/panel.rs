//! Draws the latency (above) and the losses (below) of one way, in the time just before and after the beginning of a reload. Pure.

use reloader::page::{Element, LogScale, decade_label, element, line, path_data, rectangle, text, thousands};
use reloader_tests::bench::{AFTER, BEFORE, BUCKET, Moment};

use super::document::Row;
use super::table::latency;

pub(super) const HEIGHT: f64 = 236.0;
const LEFT: f64 = 62.0;
const TITLE: f64 = 18.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 146.0;
/// Top and bottom of the strip with the losses.
const STRIP: (f64, f64) = (160.0, 206.0);
/// The height below which a bar would be invisible.
const LOWEST: f64 = 3.0;
/// The distance of two times on the axis.
const STEP_MS: usize = 100;

/// The drawing of a row that has figures.
pub(super) struct Panel<'a> {
    row: &'a Row,
    around: &'a [Moment],
    width: f64,
    scale: LogScale,
}

impl<'a> Panel<'a> {
    /// The drawings of these rows, all on the same scale.
    pub(super) fn all(rows: &[&'a Row], width: f64) -> Vec<Panel<'a>> {
        let with_figures = rows.iter().filter_map(|row| Some((*row, row.figures.as_ref()?.around.as_slice())));
        let all: Vec<_> = with_figures.filter(|(_, around)| !around.is_empty()).collect();
        let slowest =
            || all.iter().flat_map(|(_, around)| around.iter().map(|moment| moment.slowest_us)).filter(|us| *us > 0);
        let (least, most) = (slowest().min().unwrap_or(100), slowest().max().unwrap_or(1_000));
        let scale = LogScale::new(least..=most, BOTTOM, TOP);
        all.into_iter().map(|(row, around)| Panel { row, around, width, scale }).collect()
    }

    /// Draws the panel, with its upper edge at `top`.
    pub(super) fn draw(&self, top: f64) -> Element {
        element("g")
            .attr("transform", format!("translate(0 {top})"))
            .child(text(0.0, TITLE, self.row.way.title()).class("title"))
            .child(text(self.width, TITLE, &self.summary()).attr("text-anchor", "end"))
            .child(self.reload())
            .child(self.axes())
            .child(element("path").attr("d", self.slowest()).class("p50"))
            .child(self.losses())
    }

    fn summary(&self) -> String {
        self.row.headline.as_ref().map_or_else(String::new, |headline| {
            format!(
                "{} lost of {}, slowest {}",
                thousands(headline.lost),
                thousands(headline.connections),
                latency(headline.max_us)
            )
        })
    }

    /// The horizontal place of a time in milliseconds from the beginning of a reload.
    fn x(&self, ms: f64) -> f64 {
        let (before, after) = (BEFORE.as_secs_f64() * 1e3, AFTER.as_secs_f64() * 1e3);
        LEFT + (self.width - LEFT) * ((ms + before) / (before + after)).clamp(0.0, 1.0)
    }

    /// The beginning of a bucket, in milliseconds from the beginning of a reload.
    fn begin(index: usize) -> f64 {
        (BUCKET.as_secs_f64() * index as f64 - BEFORE.as_secs_f64()) * 1e3
    }

    /// A band as wide as the median reload.
    fn reload(&self) -> Element {
        let took = self.row.headline.as_ref().map_or(0.0, |headline| headline.seconds_per_reload * 1e3);
        let (from, to) = (self.x(0.0), self.x(took));
        let title = format!("a reload: {took:.0} ms");
        rectangle(from, TOP - 8.0, (to - from).max(1.5), STRIP.1 - TOP + 8.0)
            .class("reload")
            .child(element("title").text(title))
    }

    fn axes(&self) -> Element {
        let across = |y: f64| line((LEFT, y), (self.width, y));
        let beside = |y: f64, label: &str| text(LEFT - 8.0, y + 4.0, label).attr("text-anchor", "end");
        let ticks = self.scale.ticks();
        // At most four fit beside the field.
        let step = ticks.len().div_ceil(4);
        let latencies = ticks.into_iter().step_by(step).map(|micros| {
            let y = self.scale.position(micros);
            element("g").child(across(y)).child(beside(y, &decade_label(micros)))
        });
        let times = (0..AFTER.as_millis() as i32).step_by(STEP_MS).map(|ms| {
            let x = self.x(ms.into());
            let label = text(x, STRIP.1 + 18.0, &format!("{ms} ms")).attr("text-anchor", "middle");
            element("g").child(line((x, STRIP.1), (x, STRIP.1 + 5.0))).child(label)
        });
        element("g")
            .class("axis")
            .children(latencies)
            .child(across(STRIP.1))
            .children(times)
            .child(beside(STRIP.1 - 6.0, "lost"))
    }

    /// The path of the slowest connections, interrupted where none was served.
    fn slowest(&self) -> String {
        let half = BUCKET.as_secs_f64() * 500.0;
        let mut paths = String::new();
        let mut run = Vec::new();
        let mut end = |run: &mut Vec<(f64, f64)>| {
            // A single point has no length, and would be invisible.
            if let [only] = run.as_slice() {
                let only = *only;
                run.push((only.0 + 1.5, only.1));
            }
            paths += &path_data(run);
            run.clear();
        };
        for (index, moment) in self.around.iter().enumerate() {
            match moment.slowest_us {
                0 => end(&mut run),
                micros => run.push((self.x(Panel::begin(index) + half), self.scale.position(micros))),
            }
        }
        end(&mut run);
        paths
    }

    fn losses(&self) -> Element {
        let width = self.x(BUCKET.as_secs_f64() * 1e3) - self.x(0.0);
        let bars = self.around.iter().enumerate().filter(|(_, moment)| moment.lost > 0).map(|(index, moment)| {
            let share = moment.lost as f64 / moment.connections.max(1) as f64;
            let height = ((STRIP.1 - STRIP.0) * share).max(LOWEST);
            let begin = Panel::begin(index);
            let title = format!("{} of {} lost that were due at {begin:.0} ms", moment.lost, moment.connections);
            rectangle(self.x(begin), STRIP.1 - height, width, height).class("loss").child(element("title").text(title))
        });
        let group = element("g").children(bars);
        if self.around.iter().any(|moment| moment.lost > 0) {
            return group;
        }
        group.child(text(LEFT + 6.0, f64::midpoint(STRIP.0, STRIP.1) + 5.0, "none").class("none"))
    }
}
