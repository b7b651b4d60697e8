//! Defines the size and the axes that both charts share.

use crate::page::{Element, LogScale, decade_label, element, line, text};

/// A drawing area. One unit is one pixel where the page has the intended width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Canvas {
    pub(super) width: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    /// The lower edge of the field of latencies.
    pub(super) bottom: f64,
    /// The largest number of labels on the time axis.
    pub(super) labels: usize,
    /// The CSS class of the drawing. By this class the style sheet shows the drawing that fits the page, and hides the
    /// other.
    pub(super) class: &'static str,
}

impl Canvas {
    /// The drawing areas: one for a desktop and for paper, one for a phone. In both, letters have the size of the
    /// page's small print.
    pub(super) const ALL: [Canvas; 2] = [
        Canvas { width: 960.0, left: 62.0, right: 948.0, top: 26.0, bottom: 270.0, labels: 12, class: "wide" },
        Canvas { width: 400.0, left: 54.0, right: 394.0, top: 26.0, bottom: 230.0, labels: 4, class: "narrow" },
    ];

    pub(super) fn svg(&self, height: f64, label: &str) -> Element {
        element("svg")
            .attr("xmlns", "http://www.w3.org/2000/svg")
            .attr("viewBox", format!("0 0 {} {height}", self.width))
            .attr("role", "img")
            .attr("aria-label", label)
            .class(self.class)
    }

    /// The horizontal position of a share of the field's width.
    pub(super) fn x(&self, share: f64) -> f64 {
        self.left + (self.right - self.left) * share.clamp(0.0, 1.0)
    }

    /// A scale of latencies, in microseconds, over the height of the field.
    pub(super) fn latency_scale(&self, least: u64, most: u64) -> LogScale {
        LogScale::new(least..=most, self.bottom, self.top)
    }

    /// Lines across the field, each with its latency.
    pub(super) fn latency_axis(&self, scale: &LogScale) -> Element {
        let mark = |micros: u64| {
            let y = scale.position(micros);
            let label = text(self.left - 8.0, y + 4.0, &decade_label(micros)).attr("text-anchor", "end");
            element("g").child(self.across(y)).child(label)
        };
        element("g").class("axis").children(scale.ticks().into_iter().map(mark))
    }

    /// A line across the field.
    pub(super) fn across(&self, y: f64) -> Element {
        line((self.left, y), (self.right, y))
    }
}
