//! The report as a single HTML page without external resources.

use super::svg::{self, Axis, ChartBar, Line, Scale, escape, series_class, short};
use super::table::{self, Table};
use super::{describe_machine, measured};
use crate::matrix::bars::{self, Outcome, Verdict};
use crate::matrix::metric::{self, Entry, Metric, bytes, duration};
use crate::matrix::workloads::{self, Curve, Part, Workload};
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
        escape(&describe_machine(results)),
    );
    page.push_str(&bars_section(&outcomes));
    section(&mut page, "CPU per delivery", ABOUT_COSTS, &costs(results));
    section(&mut page, "Latency", ABOUT_LATENCIES, &latencies(results));
    section(&mut page, "Growth", ABOUT_GROWTH, &growth(results));
    section(&mut page, "Memory", ABOUT_MEMORY, &memory(results));
    let tables: String = measured(results)
        .iter()
        .map(|workload| {
            let shape = results.runs.iter().find(|run| run.workload == workload.name);
            let shape = shape.map(|run| table::describe_shape(&run.shape)).unwrap_or_default();
            let table = html_table(&table::workload_table(results, &workload.name));
            format!("<h3>{}</h3>\n<p class=\"quiet\">{}</p>\n{table}", escape(&workload.title), escape(&shape))
        })
        .collect();
    section(&mut page, "All results", ABOUT_RESULTS, &tables);
    section(&mut page, "Machine", "", &machine(results));
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

const ABOUT_COSTS: &str = "The server’s CPU time to deliver one message to one receiver: less is better. The charts \
    show the median of all rounds; the thin lines reach from the lowest to the highest round. <code>floor</code> is a \
    bare epoll loop that sends a prepared buffer.";
const ABOUT_LATENCIES: &str = "Measured from the time a message was due, so a server that stalls is charged for every \
    message that waited. Each line shows the round whose 99th percentile is the median of all rounds.";
const ABOUT_GROWTH: &str = "Medians of all rounds; both axes are logarithmic. What must not grow is the ratio to \
    <code>floor</code> at the same size.";
const ABOUT_MEMORY: &str = "What each idle connection adds to the memory of the server’s process and of the kernel.";
const ABOUT_RESULTS: &str = "Medians of all rounds, with the lowest and the highest value below. A ratio compares two \
    servers in the same round. A run in which the server lost, repeated, reordered or changed a message is void and \
    has no results.";

/// Appends a section, unless it has no content.
fn section(page: &mut String, title: &str, about: &str, content: &str) {
    if content.is_empty() {
        return;
    }
    let about = if about.is_empty() { String::new() } else { format!("<p class=\"quiet\">{about}</p>\n") };
    let _ = writeln!(page, "<section>\n<h2>{title}</h2>\n{about}{content}</section>");
}

/// Counts the verdicts in one sentence.
fn summary(outcomes: &[Outcome]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| outcomes.iter().filter(|outcome| wanted(&outcome.verdict)).count();
    let met = count(|it| *it == Verdict::Met);
    let not_measured = count(|it| matches!(it, Verdict::NotMeasured(_)));
    let close = count(|it| *it == Verdict::WithinTheSpread);
    let mut text = format!("{met} of {} bars met", outcomes.len());
    for (count, what) in
        [(count(|it| *it == Verdict::Missed), "not met"), (close, "undecided"), (not_measured, "not measured")]
    {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text + "."
}

fn bars_section(outcomes: &[Outcome]) -> String {
    let mut html = String::from("<section>\n<h2>Bars</h2>\n<div class=\"bars\" role=\"table\">\n");
    let mut workload = "";
    for outcome in outcomes {
        if outcome.workload != workload {
            workload = outcome.workload;
            let _ = writeln!(html, "<h3>{}</h3>", escape(&capitalize(workload)));
        }
        let (class, verdict) = match &outcome.verdict {
            Verdict::Met => ("met", "✓ met"),
            Verdict::Missed => ("missed", "✗ not met"),
            Verdict::WithinTheSpread => ("close", "≈ undecided"),
            Verdict::NotMeasured(_) => ("unknown", "– not measured"),
        };
        let mut remarks: Vec<String> = Vec::new();
        match &outcome.verdict {
            Verdict::NotMeasured(reason) => remarks.push(reason.clone()),
            Verdict::WithinTheSpread => remarks.push(outcome.verdict.describe()),
            Verdict::Met | Verdict::Missed => {}
        }
        remarks.extend(outcome.note.clone());
        remarks.extend(outcome.reason.map(str::to_owned));
        let remarks = if remarks.is_empty() {
            String::new()
        } else {
            format!("<span class=\"remarks\">{}</span>", escape(&capitalize(&remarks.join("; "))))
        };
        let _ = writeln!(
            html,
            "<div class=\"bar\" role=\"row\"><span class=\"what\" role=\"cell\">{}</span>\
             <span class=\"limit\" role=\"cell\">{}</span><span class=\"measured\" role=\"cell\">{}</span>\
             <span class=\"verdict {class}\" role=\"cell\">{verdict}</span>{remarks}</div>",
            escape(&capitalize(outcome.what)),
            escape(&outcome.limit),
            measured_html(outcome),
        );
    }
    html.push_str("</div>\n</section>\n");
    html
}

/// The median, followed by the spread in small print.
fn measured_html(outcome: &Outcome) -> String {
    match outcome.measured.split_once(" (") {
        Some((median, spread)) => {
            format!("<b>{}</b> <small>{}</small>", escape(median), escape(spread.trim_end_matches(')')))
        }
        None => escape(&outcome.measured),
    }
}

fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    // Names of metrics and programs keep their case.
    let kept = ["p50", "p99", "floor", "axum", "fastwebsockets", "make", "node", "bun", "uproar"];
    match letters.next() {
        Some(first) if !kept.iter().any(|name| text.starts_with(name)) => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

fn html_figure(title: &str, plot: &str, legend: &[String]) -> String {
    let keys: String = legend
        .iter()
        .map(|name| format!("<li class=\"{}\"><i></i>{}</li>", series_class(name), escape(name)))
        .collect();
    let keys = if legend.len() > 1 { format!("<ul class=\"legend\">{keys}</ul>") } else { String::new() };
    format!("<figure><figcaption>{}</figcaption>{keys}{plot}</figure>\n", escape(title))
}

fn plots(plots: &[String]) -> String {
    if plots.is_empty() { String::new() } else { format!("<div class=\"plots\">\n{}</div>\n", plots.concat()) }
}

fn costs(results: &Results) -> String {
    let workloads = ["fanout-room", "fanout-rooms", "echo", "centrifugo-room", "centrifugo-rooms", "shards"];
    let of_work = |workload: &Workload| {
        let entry = |server| Entry { workload: &workload.name, server };
        let bars: Vec<ChartBar> = table::servers(results, &workload.name)
            .into_iter()
            .filter_map(|server| {
                let spread = metric::over_rounds(results, entry(server), Metric::CpuPerDelivery)?;
                Some(ChartBar { name: server.into(), spread })
            })
            .collect();
        let plot = svg::bar_chart(&workload.title, &bars, |value| Metric::CpuPerDelivery.show(value));
        (!bars.is_empty()).then(|| html_figure(&workload.title, &plot, &[]))
    };
    let workloads = measured(results).into_iter().filter(|workload| workloads.contains(&workload.name.as_str()));
    plots(&workloads.filter_map(|workload| of_work(&workload)).collect::<Vec<_>>())
}

fn latencies(results: &Results) -> String {
    type Pick = fn(&Run) -> Option<&Latency>;
    let to_receivers: Pick = |run| run.delivery_latency.as_ref();
    let to_last: Pick = |run| run.last_latency.as_ref();
    let to_sender: Pick = |run| run.ack_latency.as_ref();
    let wanted: [(&str, &str, Pick); 5] = [
        ("open-room", "to the last subscriber", to_last),
        ("open-room", "to the acknowledgement", to_sender),
        ("fanout-rooms", "to each member", to_receivers),
        ("echo", "round trip", to_receivers),
        ("durable-half", "to the acknowledgement", to_sender),
    ];
    let workloads = measured(results);
    let made = wanted.into_iter().filter_map(|(name, what, pick)| {
        let workload = workloads.iter().find(|workload| workload.name == name)?;
        let series: Vec<Line> = table::servers(results, name)
            .into_iter()
            .filter_map(|server| {
                let runs = metric::valid(results, Entry { workload: name, server });
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
        let plot = svg::line_chart(&x, &y, &series, None, false);
        Some(html_figure(&format!("{}, {what}", workload.title), &plot, &names))
    });
    plots(&made.collect::<Vec<_>>())
}

/// The sizes and names of the workloads on a curve.
fn curve_points(curve: Curve) -> Vec<(u32, String)> {
    workloads::additional()
        .into_iter()
        .filter_map(|workload| match workload.part {
            Part::Curve { curve: of, size } if of == curve => Some((size, workload.name)),
            _ => None,
        })
        .collect()
}

/// One line per server: a metric along a curve, for servers with at least two points.
fn lines_along(results: &Results, curve: Curve, metric: Metric) -> Vec<Line> {
    let points = curve_points(curve);
    let mut servers: Vec<&str> = Vec::new();
    for (_, workload) in &points {
        for server in table::servers(results, workload) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    let line = |server: &str| Line {
        name: server.into(),
        points: points
            .iter()
            .filter_map(|(size, workload)| {
                let spread = metric::over_rounds(results, Entry { workload, server }, metric)?;
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
    let sizes: Vec<f64> = curve_points(x.1).into_iter().map(|(size, _)| f64::from(size)).collect();
    let scale = Scale::Log { min: *sizes.first()?, max: *sizes.last()? };
    let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value)).chain(bound);
    let y = Axis { name: y.0, scale: Scale::log(values)?, ticks: None, show: y.1 };
    let x = Axis { name: x.0, scale, ticks: Some(sizes), show: short };
    let names: Vec<String> = lines.iter().map(|line| line.name.clone()).collect();
    (!lines.is_empty()).then(|| html_figure(title, &svg::line_chart(&x, &y, lines, bound, true), &names))
}

fn growth(results: &Results) -> String {
    let mut made = Vec::new();
    for (curve, x, of_what) in
        [(Curve::Members, "members", "a room grows"), (Curve::Rooms, "rooms", "the number of rooms grows")]
    {
        for (metric, what, show) in [
            (Metric::CpuPerDelivery, "CPU per delivery", short_duration as fn(f64) -> String),
            (Metric::DeliveriesPerSecond, "deliveries/s", short as fn(f64) -> String),
        ] {
            let lines = lines_along(results, curve, metric);
            made.extend(curve_plot(
                &format!("{} as {of_what}", capitalize(what)),
                (x, curve),
                (what, show),
                &lines,
                None,
            ));
        }
        let ratios: Vec<(f64, f64)> = curve_points(curve)
            .into_iter()
            .filter_map(|(size, workload)| {
                let (of, to) =
                    (Entry { workload: &workload, server: "uproar" }, Entry { workload: &workload, server: "floor" });
                Some((f64::from(size), metric::ratio(results, Metric::CpuPerDelivery, of, to)?.median))
            })
            .collect();
        let bound = ratios.first().map(|(_, first)| first * 1.2);
        let line = Line { name: x.into(), points: ratios };
        let lines: Vec<Line> = Some(line).filter(|line| line.points.len() > 1).into_iter().collect();
        let title = format!("Ratio to floor as {of_what} (dashed: limit)");
        made.extend(curve_plot(&title, (x, curve), ("CPU per delivery, ratio", short), &lines, bound));
    }
    plots(&made)
}

fn memory(results: &Results) -> String {
    let x = ("connections", Curve::Connections);
    let made = [
        (Metric::RssPerConnection, "RSS per connection"),
        (Metric::KernelPerConnection, "kernel memory per connection, for both ends"),
    ]
    .into_iter()
    .filter_map(|(metric, what)| {
        let lines = lines_along(results, Curve::Connections, metric);
        curve_plot(&capitalize(what), x, ("bytes", short_bytes), &lines, None)
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
        "<div class=\"wide\" tabindex=\"0\"><table><thead><tr>{headings}</tr></thead>\
         <tbody>\n{rows}</tbody></table></div>\n"
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
    item("Time", &date(results.started_unix_s));
    for (name, version) in &machine.versions {
        item(name, version);
    }
    for (name, limit) in &machine.limits {
        item(name, limit);
    }
    for (server, reason) in &results.skipped {
        item(&format!("{server} skipped"), reason);
    }
    let busiest = results.runs.iter().map(|run| run.client_cpu_share).fold(0.0, f64::max);
    item("Busiest load thread", &format!("{:.0} % of its core", busiest * 100.0));
    html.push_str("</dl>\n");
    html
}

/// Formats seconds since 1970 as date and time in UTC.
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
    use crate::matrix::fixtures;

    /// Five rounds of every workload.
    fn full() -> Results {
        let mut results = fixtures::results();
        for workload in workloads::for_bars().into_iter().chain(workloads::additional()) {
            for (at, entrant) in workload.entrants.iter().enumerate() {
                for round in 1..=5 {
                    let mut run = fixtures::cpu(&workload.name, &entrant.server, round, 1.0 + at as f64);
                    run.last_latency = Some(fixtures::latency(100.0));
                    run.ack_latency = Some(fixtures::latency(50.0));
                    results.runs.push(run);
                }
            }
        }
        results
    }

    #[test]
    fn the_page_has_every_section_and_no_external_resources() {
        let page = page(&full());
        for part in ["Bars", "CPU per delivery", "Latency", "Growth", "Memory", "All results", "Machine"] {
            assert!(page.contains(&format!("<h2>{part}</h2>")), "{part}");
        }
        for outside in ["http:", "https:", "<script", "<link", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn sections_without_results_are_omitted() {
        let page = page(&fixtures::results());
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
    fn the_page_has_no_nan_and_no_infinity() {
        let page = page(&full());
        assert!(!page.contains("NaN") && !page.contains(">inf"));
    }

    #[test]
    fn dates_are_formatted_across_leap_years() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59 UTC");
    }
}
