//! Plots as SVG. Colours and fonts come from the page's style sheet.

use crate::matrix::metric::{Spread, three_digits};
use std::fmt::Write as _;

/// Escapes text for HTML, including attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// Maps values to positions on an axis.
#[derive(Clone, Copy, Debug)]
pub enum Scale {
    /// From zero.
    Linear {
        max: f64,
    },
    Log {
        min: f64,
        max: f64,
    },
    /// For percentiles, with the same distance from 90 to 99 as from 99 to 99.9.
    Percentile {
        max: f64,
    },
}

impl Scale {
    /// A logarithmic scale for these values, with both ends rounded outwards to 1, 2 or 5 times a power of ten. `None`
    /// if no value is above 0.
    pub fn log(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let spread = Spread::of(values.into_iter().filter(|value| *value > 0.0))?;
        let steps = steps(spread.min, spread.max);
        let (min, max) = (*steps.first()?, *steps.last()?);
        Some(Self::Log { min, max: if max > min { max } else { min * 2.0 } })
    }

    /// The position of a value, from 0 to 1.
    pub fn at(self, value: f64) -> f64 {
        let nines = |share: f64| -(1.0 - share / 100.0).max(1e-9).log10();
        let at = match self {
            Self::Linear { max } => value / max,
            Self::Log { min, max } => (value.max(f64::MIN_POSITIVE) / min).log10() / (max / min).log10(),
            Self::Percentile { max } => nines(value) / nines(max),
        };
        at.clamp(0.0, 1.0)
    }

    /// The values to mark on the axis, about seven at most.
    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { max } => vec![0.0, max / 2.0, max],
            Self::Log { min, max } => {
                let all = steps(min, max);
                let decades: Vec<f64> =
                    all.iter().copied().filter(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-6).collect();
                if all.len() <= 7 || decades.len() < 2 { all } else { decades }
            }
            Self::Percentile { max } => {
                [0.0, 50.0, 90.0, 99.0, 99.9, 99.99].into_iter().filter(|it| *it <= max).collect()
            }
        }
    }
}

/// 1, 2 and 5 times powers of ten, from one at or below `min` to one at or above `max`.
fn steps(min: f64, max: f64) -> Vec<f64> {
    let mut steps: Vec<f64> = Vec::new();
    let decades = min.log10().floor() as i32..=max.log10().ceil() as i32;
    for step in decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade))) {
        if step <= min * (1.0 + 1e-9) {
            steps.clear();
        }
        steps.push(step);
        if step >= max * (1.0 - 1e-9) {
            break;
        }
    }
    steps
}

/// Formats a number with a unit prefix: `500`, `2k`, `1.5M`.
pub fn short(value: f64) -> String {
    let trim = |value: f64, unit: &str| {
        let text = three_digits(value);
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{unit}")
    };
    match value.abs() {
        size if size >= 1e6 => trim(value / 1e6, "M"),
        size if size >= 1e3 => trim(value / 1e3, "k"),
        _ => trim(value, ""),
    }
}

/// A line in a line chart.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// An axis of a line chart.
pub struct Axis {
    pub name: &'static str,
    pub scale: Scale,
    /// Values to mark, instead of the scale's own choice.
    pub ticks: Option<Vec<f64>>,
    /// Formats a value.
    pub show: fn(f64) -> String,
}

impl Axis {
    fn ticks(&self) -> Vec<f64> {
        self.ticks.clone().unwrap_or_else(|| self.scale.ticks())
    }
}

// Lengths are in units of the view box. On a phone about 400 pixels wide, a unit is nearly a pixel, so text keeps its
// size.
const WIDTH: f64 = 400.0;
const LINES_HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 40.0;

/// Draws a line chart. `bound` is a limit, drawn dashed. `dots` marks the points.
pub fn line_chart(x: &Axis, y: &Axis, lines: &[Line], bound: Option<f64>, dots: bool) -> String {
    let across = |value: f64| LEFT + x.scale.at(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| LINES_HEIGHT - BOTTOM - y.scale.at(value) * (LINES_HEIGHT - TOP - BOTTOM);
    let mut svg = open(LINES_HEIGHT, &format!("{} against {}", y.name, x.name));
    for tick in y.ticks() {
        let at = up(tick);
        line(&mut svg, "grid", (LEFT, at), (WIDTH - RIGHT, at));
        text(&mut svg, "tick end", (LEFT - 6.0, at + 4.0), &(y.show)(tick));
    }
    for tick in x.ticks() {
        let at = across(tick);
        line(&mut svg, "grid", (at, TOP), (at, LINES_HEIGHT - BOTTOM));
        text(&mut svg, "tick middle", (at, LINES_HEIGHT - BOTTOM + 16.0), &(x.show)(tick));
    }
    text(&mut svg, "axis", (0.0, 11.0), y.name);
    text(&mut svg, "axis end", (WIDTH - RIGHT, LINES_HEIGHT - 6.0), x.name);
    if let Some(bound) = bound {
        line(&mut svg, "bound", (LEFT, up(bound)), (WIDTH - RIGHT, up(bound)));
    }
    for series in lines {
        let path: Vec<String> =
            series.points.iter().map(|(at, value)| format!("{:.1},{:.1}", across(*at), up(*value))).collect();
        let series_class = series_class(&series.name);
        let name = escape(&series.name);
        let _ = write!(
            svg,
            "<g class=\"{series_class}\"><polyline points=\"{}\"><title>{name}</title></polyline>",
            path.join(" ")
        );
        for (at, value) in series.points.iter().filter(|_| dots) {
            let label = escape(&format!("{}: {} at {}", series.name, (y.show)(*value), (x.show)(*at)));
            let (at, value) = (across(*at), up(*value));
            let _ = write!(svg, "<circle cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"3.5\"><title>{label}</title></circle>");
        }
        svg.push_str("</g>");
    }
    svg.push_str("</svg>");
    svg
}

/// A bar in a bar chart.
#[derive(Clone, Debug)]
pub struct ChartBar {
    pub name: String,
    pub spread: Spread,
}

/// Draws a horizontal bar chart from zero, with the spread of each bar.
pub fn bar_chart(what: &str, bars: &[ChartBar], show: impl Fn(f64) -> String) -> String {
    const ROW: f64 = 26.0;
    const NAMES: f64 = 108.0;
    const VALUES: f64 = 62.0;
    let scale = Scale::Linear { max: bars.iter().map(|bar| bar.spread.max).fold(f64::MIN_POSITIVE, f64::max) };
    let across = |value: f64| NAMES + scale.at(value) * (WIDTH - NAMES - VALUES);
    let mut svg = open(bars.len() as f64 * ROW + 4.0, what);
    for (row, bar) in bars.iter().enumerate() {
        let middle = row as f64 * ROW + ROW / 2.0 + 2.0;
        let Spread { median, min, max, .. } = bar.spread;
        text(&mut svg, "name end", (NAMES - 8.0, middle + 4.0), &bar.name);
        let width = (across(median) - NAMES).max(1.0);
        let label = escape(&format!("{}: {} ({} – {})", bar.name, show(median), show(min), show(max)));
        let _ = write!(
            svg,
            "<g class=\"{}\"><title>{label}</title>\
             <rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>",
            series_class(&bar.name),
            middle - 7.0,
        );
        if max > min {
            line(&mut svg, "whisker", (across(min), middle), (across(max), middle));
        }
        svg.push_str("</g>");
        text(&mut svg, "value", (across(max) + 6.0, middle + 4.0), &show(median));
    }
    line(&mut svg, "zero", (NAMES, 0.0), (NAMES, bars.len() as f64 * ROW + 4.0));
    svg.push_str("</svg>");
    svg
}

/// The CSS class with the colour of a series. A server has the same colour in all plots.
pub fn series_class(name: &str) -> &'static str {
    match name {
        "uproar" | "uproar uring" | "uproar live" | "members" => "tone ours",
        "floor" => "tone floor",
        "uproar epoll" | "uproar sqlite" | "uproar 2 shards" | "rooms" => "tone ours-too",
        "uproar postgres" => "tone ours-three",
        "bun" => "tone bun",
        "node ws" => "tone node",
        "axum" => "tone axum",
        "fastwebsockets" => "tone fastwebsockets",
        _ => "tone other",
    }
}

fn open(height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(label))
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = write!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(svg: &mut String, class: &str, at: (f64, f64), label: &str) {
    let _ = write!(svg, "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", at.0, at.1, escape(label));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_names_is_escaped() {
        assert_eq!(escape("<b a=\"1\" c='2'>&"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
        let bar = ChartBar { name: "<script>".into(), spread: Spread::of([1.0]).unwrap() };
        let svg = bar_chart("x", &[bar], short);
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;"), "{svg}");
    }

    #[test]
    fn a_logarithmic_scale_ends_at_round_numbers() {
        let Some(Scale::Log { min, max }) = Scale::log([13.0, 480.0]) else { panic!("no scale for two values") };
        assert_eq!((min.round(), max.round()), (10.0, 500.0));
        let Some(Scale::Log { min, max }) = Scale::log([20.0]) else { panic!("no scale for one value") };
        assert_eq!((min.round(), max.round()), (20.0, 40.0));
        assert!(Scale::log([0.0]).is_none());
    }

    #[test]
    fn the_ends_of_a_scale_map_to_0_and_1() {
        for (scale, min, max) in [
            (Scale::Linear { max: 4.0 }, 0.0, 4.0),
            (Scale::Log { min: 10.0, max: 1000.0 }, 10.0, 1000.0),
            (Scale::Percentile { max: 99.9 }, 0.0, 99.9),
        ] {
            assert_eq!((scale.at(min), scale.at(max)), (0.0, 1.0), "{scale:?}");
        }
        assert!((Scale::Log { min: 10.0, max: 1000.0 }.at(100.0) - 0.5).abs() < 1e-9);
        assert!((Scale::Percentile { max: 99.99 }.at(99.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn axis_values_are_formatted_with_unit_prefixes() {
        assert_eq!(short(500.0), "500");
        assert_eq!(short(1500.0), "1.5k");
        assert_eq!(short(10_000.0), "10k");
        assert_eq!(short(2e6), "2M");
        assert_eq!(short(0.05), "0.05");
        assert_eq!(short(0.0), "0");
    }
}
