//! The report as one page that needs nothing else.

use super::svg::{self, Axis, Bar, Line, Scale, escape, short, tone};
use super::table::{self, Table};
use super::{machine_in_words, measured};
use crate::matrix::bars::{self, Outcome, Verdict};
use crate::matrix::figure::{self, Entry, Figure, bytes, duration};
use crate::matrix::works::{self, Curve, Part, Work};
use crate::result::{Latency, Results, Run};
use std::fmt::Write as _;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub fn page(results: &Results) -> String {
    let outcomes = bars::judge(results);
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    let _ = write!(page, "<title>Uproar, measured</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n");
    let _ = writeln!(
        page,
        "<header><h1>Uproar, measured</h1>\n<p class=\"lead\">{}</p>\n<p class=\"quiet\">{}</p></header>",
        summary(&outcomes),
        escape(&machine_in_words(results)),
    );
    page.push_str(&bars_section(&outcomes));
    section(&mut page, "CPU per delivery", HOW_COSTS, &costs(results));
    section(&mut page, "Latency", HOW_LATENCIES, &latencies(results));
    section(&mut page, "Growth", HOW_GROWTH, &growth(results));
    section(&mut page, "Memory", HOW_MEMORY, &memory(results));
    let tables: String = measured(results)
        .iter()
        .map(|work| {
            let shape = results.runs.iter().find(|run| run.work == work.name);
            let shape = shape.map(|run| table::shape_in_words(&run.shape)).unwrap_or_default();
            let table = html_table(&table::of_work(results, &work.name));
            format!("<h3>{}</h3>\n<p class=\"quiet\">{}</p>\n{table}", escape(&work.title), escape(&shape))
        })
        .collect();
    section(&mut page, "All figures", HOW_FIGURES, &tables);
    section(&mut page, "Measured on", "", &machine(results));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

const HOW_COSTS: &str = "The server’s CPU time for one message to one receiver. Bars are medians of the rounds, the \
    lines over them go from the least to the greatest. <code>floor</code> is a bare epoll loop that sends a prepared \
    buffer.";
const HOW_LATENCIES: &str = "From the time at which a message was to be sent, so a server that stalls is charged for \
    what waited meanwhile. The round whose 99th percentile is the median.";
const HOW_GROWTH: &str = "Medians of the rounds, both axes logarithmic. The ratio to <code>floor</code> at the same \
    size is what may not grow.";
const HOW_MEMORY: &str = "Of the server’s process, for each idle connection.";
const HOW_FIGURES: &str = "Medians of the rounds, the least and the greatest in brackets. Ratios are of the two servers \
    in the same round. A run that lost, repeated or reordered a message is void and has no figures.";

/// Nothing where there is no content.
fn section(page: &mut String, title: &str, how: &str, content: &str) {
    if content.is_empty() {
        return;
    }
    let how = if how.is_empty() { String::new() } else { format!("<p class=\"quiet\">{how}</p>\n") };
    let _ = writeln!(page, "<section>\n<h2>{title}</h2>\n{how}{content}</section>");
}

/// In one sentence.
fn summary(outcomes: &[Outcome]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| outcomes.iter().filter(|outcome| wanted(&outcome.verdict)).count();
    let met = count(|it| *it == Verdict::Met);
    let not_measured = count(|it| matches!(it, Verdict::NotMeasured(_)));
    let close = count(|it| *it == Verdict::WithinTheSpread);
    let mut text = format!("{met} of {} bars met", outcomes.len());
    for (count, what) in
        [(count(|it| *it == Verdict::Missed), "not met"), (close, "within the spread"), (not_measured, "not measured")]
    {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text + "."
}

fn bars_section(outcomes: &[Outcome]) -> String {
    let mut html = String::from("<section>\n<h2>Bars</h2>\n<div class=\"bars\" role=\"table\">\n");
    let mut work = "";
    for outcome in outcomes {
        if outcome.work != work {
            work = outcome.work;
            let _ = writeln!(html, "<h3>{}</h3>", escape(&capital(work)));
        }
        let (class, verdict) = match &outcome.verdict {
            Verdict::Met => ("met", "✓ met"),
            Verdict::Missed => ("missed", "✗ not met"),
            Verdict::WithinTheSpread => ("close", "≈ within the spread"),
            Verdict::NotMeasured(_) => ("unknown", "– not measured"),
        };
        let mut says: Vec<String> = Vec::new();
        match &outcome.verdict {
            Verdict::NotMeasured(why) => says.push(why.clone()),
            Verdict::WithinTheSpread => says.push(outcome.verdict.words()),
            Verdict::Met | Verdict::Missed => {}
        }
        says.extend(outcome.note.clone());
        says.extend(outcome.reason.map(str::to_owned));
        let says = if says.is_empty() {
            String::new()
        } else {
            format!("<span class=\"says\">{}</span>", escape(&capital(&says.join("; "))))
        };
        let _ = writeln!(
            html,
            "<div class=\"bar\" role=\"row\"><span class=\"what\" role=\"cell\">{}</span>\
             <span class=\"limit\" role=\"cell\">{}</span><span class=\"figure\" role=\"cell\">{}</span>\
             <span class=\"verdict {class}\" role=\"cell\">{verdict}</span>{says}</div>",
            escape(&capital(outcome.what)),
            escape(&outcome.limit),
            figure_of(outcome),
        );
    }
    html.push_str("</div>\n</section>\n");
    html
}

/// The median, and the spread smaller behind it.
fn figure_of(outcome: &Outcome) -> String {
    match outcome.measured.split_once(" (") {
        Some((median, spread)) => {
            format!("<b>{}</b> <small>{}</small>", escape(median), escape(spread.trim_end_matches(')')))
        }
        None => escape(&outcome.measured),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    // Names of things and programs keep theirs.
    let kept = ["p50", "p99", "floor", "axum", "fastwebsockets", "make", "node", "bun", "uproar"];
    match letters.next() {
        Some(first) if !kept.iter().any(|name| text.starts_with(name)) => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

fn figure_with(title: &str, plot: &str, legend: &[String]) -> String {
    let keys: String =
        legend.iter().map(|name| format!("<li class=\"{}\"><i></i>{}</li>", tone(name), escape(name))).collect();
    let keys = if legend.len() > 1 { format!("<ul class=\"legend\">{keys}</ul>") } else { String::new() };
    format!("<figure><figcaption>{}</figcaption>{keys}{plot}</figure>\n", escape(title))
}

fn plots(plots: &[String]) -> String {
    if plots.is_empty() { String::new() } else { format!("<div class=\"plots\">\n{}</div>\n", plots.concat()) }
}

fn costs(results: &Results) -> String {
    let works = ["fanout-room", "fanout-rooms", "echo", "centrifugo-room", "centrifugo-rooms", "shards"];
    let of_work = |work: &Work| {
        let entry = |server| Entry { work: &work.name, server };
        let bars: Vec<Bar> = table::servers(results, &work.name)
            .into_iter()
            .filter_map(|server| {
                let spread = figure::over_rounds(results, entry(server), Figure::CpuPerDelivery)?;
                Some(Bar { name: server.into(), spread })
            })
            .collect();
        let plot = svg::bars(&work.title, &bars, |value| Figure::CpuPerDelivery.show(value));
        (!bars.is_empty()).then(|| figure_with(&work.title, &plot, &[]))
    };
    let works = measured(results).into_iter().filter(|work| works.contains(&work.name.as_str()));
    plots(&works.filter_map(|work| of_work(&work)).collect::<Vec<_>>())
}

fn latencies(results: &Results) -> String {
    type Pick = fn(&Run) -> Option<&Latency>;
    let to_receivers: Pick = |run| run.delivery_latency.as_ref();
    let to_last: Pick = |run| run.last_latency.as_ref();
    let to_sender: Pick = |run| run.ack_latency.as_ref();
    let wanted: [(&str, &str, Pick); 5] = [
        ("open-room", "to the last member", to_last),
        ("open-room", "to the acknowledgement", to_sender),
        ("fanout-rooms", "to each member", to_receivers),
        ("echo", "there and back", to_receivers),
        ("durable-half", "to the acknowledgement", to_sender),
    ];
    let works = measured(results);
    let made = wanted.into_iter().filter_map(|(name, what, pick)| {
        let work = works.iter().find(|work| work.name == name)?;
        let series: Vec<Line> = table::servers(results, name)
            .into_iter()
            .filter_map(|server| {
                let runs = figure::valid(results, Entry { work: name, server });
                let mut latencies: Vec<&Latency> = runs.into_iter().filter_map(pick).collect();
                latencies.sort_by(|one, other| one.p99.total_cmp(&other.p99));
                let points = latencies.get(latencies.len() / 2)?.curve.clone();
                Some(Line { name: server.into(), points })
            })
            .collect();
        let all = series.iter().flat_map(|line| line.points.iter().copied());
        let y = Scale::log(all.clone().map(|(_, latency)| latency))?;
        let most = all.map(|(share, _)| share).filter(|share| *share < 100.0).fold(99.0, f64::max);
        let x = Axis {
            name: "percentile",
            scale: Scale::Percentile { max: most },
            ticks: None,
            show: |value| value.to_string(),
        };
        let y = Axis { name: "latency", scale: y, ticks: None, show: short_duration };
        let names: Vec<String> = series.iter().map(|line| line.name.clone()).collect();
        let plot = svg::lines(&x, &y, &series, None, false);
        Some(figure_with(&format!("{}, {what}", work.title), &plot, &names))
    });
    plots(&made.collect::<Vec<_>>())
}

/// Of the works on a curve, by their size.
fn points(curve: Curve) -> Vec<(u32, String)> {
    works::of_curves()
        .into_iter()
        .filter_map(|work| match work.part {
            Part::Curve { curve: of, size } if of == curve => Some((size, work.name)),
            _ => None,
        })
        .collect()
}

/// A line a server of a figure along a curve, where two points at least were measured.
fn along(results: &Results, curve: Curve, figure: Figure) -> Vec<Line> {
    let points = points(curve);
    let mut servers: Vec<&str> = Vec::new();
    for (_, work) in &points {
        for server in table::servers(results, work) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    let line = |server: &str| Line {
        name: server.into(),
        points: points
            .iter()
            .filter_map(|(size, work)| {
                let spread = figure::over_rounds(results, Entry { work, server }, figure)?;
                Some((f64::from(*size), spread.median))
            })
            .collect(),
    };
    servers.into_iter().map(line).filter(|line| line.points.len() > 1).collect()
}

fn curve_plot(
    title: &str,
    x: (&'static str, Curve),
    y: (&'static str, fn(f64) -> String),
    lines: &[Line],
    bound: Option<f64>,
) -> Option<String> {
    let sizes: Vec<f64> = points(x.1).into_iter().map(|(size, _)| f64::from(size)).collect();
    let scale = Scale::Log { min: *sizes.first()?, max: *sizes.last()? };
    let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value)).chain(bound);
    let y = Axis { name: y.0, scale: Scale::log(values)?, ticks: None, show: y.1 };
    let x = Axis { name: x.0, scale, ticks: Some(sizes), show: short };
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    (!lines.is_empty()).then(|| figure_with(title, &svg::lines(&x, &y, lines, bound, true), &names))
}

fn growth(results: &Results) -> String {
    let mut made = Vec::new();
    for (curve, x, of_what) in
        [(Curve::Members, "members", "a room grows"), (Curve::Rooms, "rooms", "rooms become more")]
    {
        for (figure, what, show) in [
            (Figure::CpuPerDelivery, "CPU per delivery", short_duration as fn(f64) -> String),
            (Figure::DeliveriesPerSecond, "deliveries/s", short as fn(f64) -> String),
        ] {
            let lines = along(results, curve, figure);
            made.extend(curve_plot(&format!("{} as {of_what}", capital(what)), (x, curve), (what, show), &lines, None));
        }
        let ratios: Vec<(f64, f64)> = points(curve)
            .into_iter()
            .filter_map(|(size, work)| {
                let (of, to) = (Entry { work: &work, server: "uproar" }, Entry { work: &work, server: "floor" });
                Some((f64::from(size), figure::ratio(results, Figure::CpuPerDelivery, of, to)?.median))
            })
            .collect();
        let bound = ratios.first().map(|(_, first)| first * 1.2);
        let line = Line { name: x.into(), points: ratios };
        let lines: Vec<Line> = Some(line).filter(|line| line.points.len() > 1).into_iter().collect();
        let title = format!("Ratio to floor as {of_what}; dashed: what it may grow to");
        made.extend(curve_plot(&title, (x, curve), ("CPU per delivery, ratio", short), &lines, bound));
    }
    plots(&made)
}

fn memory(results: &Results) -> String {
    let x = ("connections", Curve::Connections);
    let made = [
        (Figure::RssPerConnection, "RSS per connection"),
        (Figure::KernelPerConnection, "kernel memory per connection, both ends"),
    ]
    .into_iter()
    .filter_map(|(figure, what)| {
        let lines = along(results, Curve::Connections, figure);
        curve_plot(&capital(what), x, ("bytes", short_bytes), &lines, None)
    });
    plots(&made.collect::<Vec<_>>())
}

fn short_duration(micros: f64) -> String {
    duration(micros).replace(".00 ", " ").replace(".0 ", " ")
}

fn short_bytes(size: f64) -> String {
    if size < 1000.0 { bytes(size) } else { format!("{} kB", short(size / 1000.0)) }
}

fn html_table(table: &Table) -> String {
    let cells = |row: &[String], tag: &str| {
        row.iter().fold(String::new(), |mut cells, cell| {
            let cell = match cell.split_once(" (") {
                Some((median, spread)) => {
                    format!("{} <small>{}</small>", escape(median), escape(spread.trim_end_matches(')')))
                }
                None => escape(cell),
            };
            let _ = write!(cells, "<{tag}>{cell}</{tag}>");
            cells
        })
    };
    let rows: String = table.rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row, "td"))).collect();
    let headings = cells(&table.headings, "th");
    format!(
        "<div class=\"wide\" tabindex=\"0\"><table><thead><tr>{headings}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let mut html = String::from("<dl>\n");
    let mut item = |name: &str, value: &str| {
        let _ = writeln!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
    };
    item("CPU", &machine.cpu);
    item("Cores", &machine.cores.to_string());
    item("Memory", &bytes(machine.memory_bytes as f64));
    item("Kernel", &machine.kernel);
    item("Time", &date(results.begun));
    for (name, version) in &machine.versions {
        item(name, version);
    }
    for (name, limit) in &machine.limits {
        item(name, limit);
    }
    for (server, why) in &results.skipped {
        item(&format!("Without {server}"), why);
    }
    let busiest = results.runs.iter().map(|run| run.client_cpu_share).fold(0.0, f64::max);
    item("Load’s busiest core", &format!("{:.0} % at most", busiest * 100.0));
    html.push_str("</dl>\n");
    html
}

/// Day, and time in UTC, of seconds since 1970.
fn date(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    format!("{year}-{:02}-{:02} {:02}:{:02} UTC", month + 1, days + 1, minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::made_up;

    /// Every work of the matrix, five rounds.
    fn full() -> Results {
        let mut results = made_up::results();
        for work in works::of_bars().into_iter().chain(works::of_curves()) {
            for (at, entrant) in work.entrants.iter().enumerate() {
                for round in 1..=5 {
                    let mut run = made_up::cpu(&work.name, &entrant.server, round, 1.0 + at as f64);
                    run.last_latency = Some(made_up::latency(100.0));
                    run.ack_latency = Some(made_up::latency(50.0));
                    results.runs.push(run);
                }
            }
        }
        results
    }

    #[test]
    fn the_page_has_every_part_and_needs_nothing_else() {
        let page = page(&full());
        for part in ["Bars", "CPU per delivery", "Latency", "Growth", "Memory", "All figures", "Measured on"] {
            assert!(page.contains(&format!("<h2>{part}</h2>")), "{part}");
        }
        for outside in ["http:", "https:", "<script", "<link", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_part_that_nobody_measured_is_left_out() {
        let page = page(&made_up::results());
        assert!(page.contains("<h2>Bars</h2>") && !page.contains("<h2>Growth</h2>"));
    }

    #[test]
    fn names_and_errors_are_escaped() {
        let mut results = full();
        results.machine.cpu = "<i>fast</i>".into();
        results.skipped.insert("bun".into(), "<b>no</b>".into());
        let page = page(&results);
        assert!(!page.contains("<i>fast") && !page.contains("<b>no"));
        assert!(page.contains("&lt;i&gt;fast"));
    }

    #[test]
    fn numbers_never_come_out_as_none() {
        let page = page(&full());
        assert!(!page.contains("NaN") && !page.contains(">inf"));
    }

    #[test]
    fn times_are_days() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59 UTC");
    }
}
