//! What both charts are drawn on.

use crate::page::{Decades, Element, decade_label, element, straight, text};

/// A drawing in units that are pixels where the page is as wide as was thought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Canvas {
    pub(super) width: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    /// Where the field of the latencies ends.
    pub(super) bottom: f64,
    pub(super) labels: usize,
    /// The class of the drawing, by which the page shows the one that fits.
    pub(super) class: &'static str,
}

impl Canvas {
    /// For a desk and for paper; for a phone. In both, the letters have the size of the page's small print.
    pub(super) const BOTH: [Canvas; 2] = [
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

    /// A share of the field's width.
    pub(super) fn x(&self, share: f64) -> f64 {
        self.left + (self.right - self.left) * share.clamp(0.0, 1.0)
    }

    pub(super) fn decades(&self, least: u64, most: u64) -> Decades {
        Decades::of(least, most, self.bottom, self.top)
    }

    /// Lines across the field, with the latency that they stand for.
    pub(super) fn latency_axis(&self, scale: &Decades) -> Element {
        let line = |micros: u64| {
            let y = scale.place(micros);
            let label = text(self.left - 8.0, y + 4.0, &decade_label(micros)).attr("text-anchor", "end");
            element("g").child(self.across(y)).child(label)
        };
        element("g").class("axis").children(scale.ticks().into_iter().map(line))
    }

    pub(super) fn across(&self, y: f64) -> Element {
        straight((self.left, y), (self.right, y))
    }
}
