//! Just enough SVG: shapes with classes that the page's style sheet colours.

use std::fmt::Write as _;

/// A drawing. The page scales its units.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// How a text is aligned to its point.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), title: &str) {
        let ((x, y), (width, height)) = (at, size);
        let title = escape(title);
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"2\"><title>{title}</title></rect>"
        );
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = write!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    pub(super) fn curve(&mut self, class: &str, points: &[(f64, f64)], title: &str) {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        let title = escape(title);
        let _ =
            write!(self.body, "<path class=\"{class}\" d=\"{path}\"><title>{title}</title></path>");
    }

    pub(super) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let ((x, y), text) = (at, escape(text));
        let _ = write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    pub(super) fn finish(self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }
}

/// Text that may stand in HTML, between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Round steps that divide `0..=most` into a handful of parts.
pub(super) fn ticks(most: f64) -> Vec<f64> {
    if most <= 0.0 || !most.is_finite() {
        return vec![0.0];
    }
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    (0..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= most * 1.0001).collect()
}

/// 1, 2 and 5 times the powers of ten within `least..=most`.
pub(super) fn log_ticks(least: f64, most: f64) -> Vec<f64> {
    let first = least.log10().floor() as i32;
    let last = most.log10().ceil() as i32;
    let wide = most / least > 500.0;
    (first..=last)
        .flat_map(|power| {
            let factors: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
            factors.iter().map(move |factor| factor * 10f64.powi(power))
        })
        .filter(|tick| (least..=most).contains(tick))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_axis_has_a_few_ticks_from_zero_on(most in 1e-6..1e9f64) {
            let ticks = ticks(most);

            prop_assert_eq!(ticks[0], 0.0);
            prop_assert!((2..=6).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.iter().all(|tick| *tick <= most * 1.001));
        }
    }

    #[test]
    fn markup_in_names_is_no_markup() {
        let mut svg = Svg::new(1.0, 1.0);

        svg.text("x", (0.0, 0.0), Anchor::Start, "<script>&");

        assert!(svg.finish("a\"b").contains("&lt;script&gt;&amp;"));
    }

    #[test]
    fn logarithmic_ticks_are_round() {
        assert_eq!(log_ticks(15.0, 120.0), [20.0, 50.0, 100.0]);
        assert_eq!(log_ticks(10.0, 100_000.0), [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
    }
}
