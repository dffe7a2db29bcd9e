//! The layout of `top`.
//!
//! ```text
//! title: device, engine, age, whether all packets are accounted for
//! egress                    | ingress                      rates, latencies, a curve
//! drops                     | workers                      by reason, load by worker
//! peers
//! keys
//! ```

use super::super::show::{age, bits_per_second, count, time_ns};
use super::model::{Model, PeerRates, Rates, Sort};
use crate::telemetry::histogram::Summary;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use std::collections::VecDeque;

/// Height of the panels of the two directions: borders, four lines, a curve.
const DIRECTION_ROWS: u16 = 8;
/// Smallest height of the panels below them: borders and three lines.
const MIDDLE_ROWS: u16 = 5;
/// Terminals of at least this width show endpoints.
const WIDE: u16 = 110;

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    // A tall terminal has room for more workers and reasons.
    let wanted = model.workers.len().max(model.drops.len()) as u16 + 2;
    let middle_rows = wanted.clamp(MIDDLE_ROWS, (frame.area().height / 4).max(MIDDLE_ROWS));
    let [title_row, directions, middle, peers_rows, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(DIRECTION_ROWS),
        Constraint::Length(middle_rows),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    title(frame, title_row, model);
    let halves = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]);
    let [left, right] = halves.areas(directions);
    direction(frame, left, "egress", model.egress, model, &model.history[0]);
    direction(frame, right, "ingress", model.ingress, model, &model.history[1]);
    let [left, right] = halves.areas(middle);
    drops(frame, left, model);
    workers(frame, right, model);
    peers(frame, peers_rows, model);
    frame.render_widget(footer(model), keys);
}

fn title(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let status = &model.now.status;
    let about = &status.about;
    let mut spans = vec![
        Span::from(format!(" {} ", about.device)).bold().reversed(),
        Span::from(format!(" {} ×{}, mtu {}", about.engine, about.queues, about.mtu)),
    ];
    if area.width >= WIDE {
        spans.push(Span::from(format!(", UDP {}", about.listen)));
    }
    spans.push(Span::from(format!(", up {}, ", age(status.uptime_seconds))));
    spans.push(match (&model.trouble, status.imbalance) {
        (Some(_), _) => Span::from("no answer").red().bold(),
        (None, 0) => Span::from("all packets accounted for").green(),
        (None, off) => Span::from(format!("{off} packets unaccounted for")).red().bold(),
    });
    let off: Vec<_> =
        status.offloads.iter().filter(|it| !it.on).map(|it| it.name.as_str()).collect();
    if !off.is_empty() {
        spans.push(Span::from(format!(", without {}", off.join(", "))).yellow());
    }
    frame.render_widget(Line::from(spans), area);
}

fn direction(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &str,
    rates: Rates,
    model: &Model,
    history: &VecDeque<u64>,
) {
    let block = Block::bordered().title(format!(" {name} ").bold());
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [text, curve] = Layout::vertical([Constraint::Length(4), Constraint::Min(0)]).areas(inside);
    let batch = model.interval.get(&format!("{name}-batch"));
    let moved = model.interval.get(if name == "egress" { "send" } else { "write" });
    let mean = |summary: Option<&Summary>| {
        summary.map_or_else(|| "-".to_owned(), |it| format!("{:.1}", it.mean))
    };
    let unit = if name == "egress" { "per send" } else { "per write" };
    let lines = vec![
        Line::from(vec![
            Span::from(format!("{:>8} packets/s", count(rates.packets))).bold(),
            Span::from(format!("  {:>12}", bits_per_second(rates.bits))).bold(),
        ]),
        dropped(rates.drops),
        latency(model.interval.get(name)),
        Line::from(format!("{:>8} {unit}, {} per batch", mean(moved), mean(batch))).dim(),
    ];
    frame.render_widget(Paragraph::new(lines), text);
    let width = usize::from(curve.width);
    let shown: Vec<u64> =
        history.iter().skip(history.len().saturating_sub(width)).copied().collect();
    frame.render_widget(Sparkline::default().data(shown).cyan(), curve);
}

fn dropped(rate: f64) -> Line<'static> {
    let line = Line::from(format!("{:>8} dropped/s", count(rate)));
    if rate > 0.0 { line.red() } else { line.dim() }
}

/// Percentiles of the last interval; a dash without packets.
fn latency(summary: Option<&Summary>) -> Line<'static> {
    match summary.filter(|summary| summary.count > 0) {
        Some(it) => {
            let [p50, p99, max] = [it.p50, it.p99, it.max].map(time_ns);
            Line::from(format!("{p50:>8} p50 {p99:>8} p99 {max:>8} max"))
        }
        None => Line::from("       - latency").dim(),
    }
}

fn drops(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let block = Block::bordered().title(" drops, packets/s ".bold());
    let rows: Vec<_> = match model.drops.as_slice() {
        [] => vec![Row::new(["none"]).dim()],
        drops => drops
            .iter()
            .map(|(direction, reason, rate)| {
                let row = Row::new([
                    Cell::from((*direction).to_owned()),
                    Cell::from(reason.clone()),
                    Cell::from(format!("{:>8}", count(*rate))),
                ]);
                if *rate > 0.0 { row.red() } else { row.dim() }
            })
            .collect(),
    };
    let widths = [Constraint::Length(8), Constraint::Fill(1), Constraint::Length(8)];
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

fn workers(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let block = Block::bordered().title(" workers, packets/s ".bold());
    let rows = model.workers.iter().enumerate().map(|(number, (egress, ingress))| {
        Row::new([
            format!("{number}"),
            format!("{:>8} out", count(egress.packets)),
            format!("{:>8} in", count(ingress.packets)),
        ])
    });
    let widths = [Constraint::Length(3), Constraint::Length(13), Constraint::Length(13)];
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

fn peers(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let rows_shown = usize::from(area.height.saturating_sub(3)).max(1);
    // Scrolling ends with the last page.
    model.scrolled = model.scrolled.min(model.peers.len().saturating_sub(rows_shown));
    let sorted = model.sorted();
    let (first, all) = (model.scrolled, sorted.len());
    let last = (first + rows_shown).min(all);
    let title = match all {
        0 => " peers ".to_owned(),
        _ => format!(" peers {}–{last} of {all}, by {} ", first + 1, model.sort.name()),
    };
    let longest = sorted[first..last].iter().map(|peer| peer.status.name.chars().count()).max();
    let columns = columns(area.width, longest.unwrap_or(0));
    let titles = columns.iter().map(|column| Line::from(COLUMNS[*column].0).right_aligned());
    let header = [Line::from("peer")].into_iter().chain(titles);
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend(columns.iter().map(|column| Constraint::Length(COLUMNS[*column].1)));
    let rows = sorted[first..last].iter().map(|peer| peer_row(peer, &columns));
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::bordered().title(title.bold()));
    frame.render_widget(table, area);
}

/// Columns beside the peer's name, with their widths.
const COLUMNS: [(&str, u16); 9] = [
    ("out bit/s", 12),
    ("in bit/s", 12),
    ("drops/s", 8),
    ("silent", 7),
    ("rtt p50", 8),
    ("p99", 8),
    ("out packets/s", 13),
    ("in packets/s", 12),
    ("endpoint", 24),
];
/// Columns in the order in which they go into a terminal, the most important one first.
const BY_WEIGHT: [usize; 9] = [0, 1, 3, 4, 2, 5, 6, 7, 8];
/// A name gets at most this many characters, at the cost of columns.
const LONGEST_NAME: usize = 32;

/// The columns that fit beside names of this length, in their order.
fn columns(width: u16, name: usize) -> Vec<usize> {
    let borders = 2;
    let name = name.clamp("peer".len(), LONGEST_NAME) as u16;
    let mut room = width.saturating_sub(borders + name);
    let fits = |column: &usize| {
        let taken = COLUMNS[*column].1 + 1;
        let fits = taken <= room;
        room = if fits { room - taken } else { 0 };
        fits
    };
    let mut columns: Vec<_> = BY_WEIGHT.into_iter().filter(fits).collect();
    columns.sort_unstable();
    columns
}

fn peer_row(peer: &PeerRates, columns: &[usize]) -> Row<'static> {
    let status = &peer.status;
    let rtt = status.probe.map(|probe| probe.rtt).filter(|rtt| rtt.count > 0);
    let is_silent = status.silence().is_some();
    let dash = || "-".to_owned();
    let numbers = [
        bits_per_second(peer.egress.bits),
        bits_per_second(peer.ingress.bits),
        count(peer.egress.drops + peer.ingress.drops),
        status.last_seen_seconds.map_or_else(dash, age),
        if is_silent { "lost".to_owned() } else { rtt.map_or_else(dash, |rtt| time_ns(rtt.p50)) },
        rtt.map_or_else(dash, |rtt| time_ns(rtt.p99)),
        count(peer.egress.packets),
        count(peer.ingress.packets),
        status.endpoint.to_string(),
    ];
    let numbers = columns.iter().map(|column| numbers[*column].clone());
    let right = |number: String| Cell::from(Line::from(number).right_aligned());
    let name = Cell::from(status.name.clone());
    let row = Row::new([name].into_iter().chain(numbers.map(right)));
    match peer.egress.drops + peer.ingress.drops > 0.0 {
        true => row.fg(Color::Red),
        false if is_silent => row.fg(Color::Yellow),
        false => row,
    }
}

fn footer(model: &Model) -> Line<'_> {
    if let Some(trouble) = &model.trouble {
        return Line::from(format!(" {trouble}")).red();
    }
    let next = match model.sort.next() {
        Sort::Traffic => "by traffic",
        Sort::Drops => "by drops",
        Sort::RoundTrip => "by round trip",
        Sort::Name => "by name",
    };
    let pause = if model.paused { "resume" } else { "pause" };
    Line::from(format!(" q quit   p {pause}   s sort {next}   ↑↓ scroll")).dim()
}

#[cfg(test)]
mod tests {
    use super::super::model::Reading;
    use super::*;
    use crate::telemetry::histogram::Distribution;
    use crate::telemetry::instruments::EGRESS_LATENCY;
    use crate::telemetry::status::tests::busy;
    use crate::telemetry::status::{GatewayStatus, Histograms};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::{Duration, Instant};

    #[test]
    fn rates_and_latencies_of_the_last_interval_are_shown() {
        let screen = screen(80, 24, &mut running());

        for part in [
            " twill0 ",
            "uring ×2",
            "all packets accounted for",
            "without gso",
            "500 packets/s",
            "8.00 Mbit/s",
            "10.0 µs p50",
            "20.1 µs",
            "no_route",
            "device queue full",
            "h2",
            "150 µs",
            "q quit",
        ] {
            assert!(screen.contains(part), "{part:?} is not on\n{screen}");
        }
    }

    #[test]
    fn every_size_of_terminal_is_drawn() {
        for (width, height) in [(80, 24), (200, 60), (40, 10), (1, 1), (500, 3), (3, 200)] {
            let screen = screen(width, height, &mut running());
            assert_eq!(screen.lines().count(), usize::from(height));
        }
        let wide = screen(200, 60, &mut running());
        assert!(wide.contains("192.0.2.2:8285"), "{wide}");
    }

    #[test]
    fn a_gateway_that_does_not_answer_leaves_the_last_numbers_in_sight() {
        let mut model = running();

        model.take(Err("connection refused".to_owned()));

        let screen = screen(80, 24, &mut model);
        assert!(screen.contains("no answer") && screen.contains("connection refused"));
        assert!(screen.contains("500 packets/s"));
    }

    #[test]
    fn a_restarted_gateway_has_no_rates_until_its_second_reading() {
        let mut model = running();
        let mut reborn = busy();
        reborn.about.start_time_seconds += 60.0;

        model.take(Ok(reading(reborn, 0)));

        assert_eq!(model.egress, Rates::default());
        assert!(model.trouble.is_none());
    }

    #[test]
    fn a_silent_peer_has_a_lost_probe_in_place_of_its_round_trip() {
        let mut model = running();
        let before = screen(80, 24, &mut model);
        let peer = &mut model.peers[0].status;
        peer.last_seen_seconds = Some(19.0);
        peer.probe.as_mut().unwrap().last_lost = true;

        let screen = screen(80, 24, &mut model);

        let row = screen.lines().find(|line| line.contains("h2")).unwrap();
        assert!(row.contains("19s") && row.contains(" lost "), "{row}");
        assert!(!before.contains(" lost "), "{before}");
    }

    #[test]
    fn a_terminal_of_any_width_shows_the_whole_name_of_a_peer() {
        let mut model = running();
        let name = "node-17.rack-3.example.net";
        model.peers[0].status.name = name.to_owned();
        for (width, numbers) in [
            (50, &["out bit/s"][..]),
            (80, &["out bit/s", "in bit/s", "silent", "rtt p50"]),
            (200, &["drops/s", "p99", "out packets/s", "in packets/s", "endpoint"]),
        ] {
            let screen = screen(width, 24, &mut model);

            for part in numbers.iter().chain([&name]) {
                assert!(screen.contains(part), "{part:?} is not on\n{screen}");
            }
        }
    }

    #[test]
    fn scrolling_ends_with_the_last_page() {
        let mut model = running();
        let peer = model.peers[0].clone();
        model.peers = vec![peer; 100];

        model.scroll(1_000);
        let screen = screen(80, 24, &mut model);

        assert!(screen.contains("of 100, by traffic"), "{screen}");
        assert!(screen.contains("–100 of"), "{screen}");
    }

    /// After two readings, two seconds apart.
    fn running() -> Model {
        let before = busy();
        let mut after = busy();
        after.egress.packets_in += 1000;
        after.egress.packets_out += 1000;
        after.egress.bytes_out += 2_000_000;
        *after.egress.drops.get_mut("no_route").unwrap() += 6;
        let mut model = Model::new(reading(before, 0));
        let mut later = reading(after, 500);
        later.at = model.now.at + Duration::from_secs(2);
        model.take(Ok(later));
        model
    }

    fn reading(status: GatewayStatus, values: u64) -> Reading {
        let mut egress = Distribution::new(EGRESS_LATENCY.layout);
        egress.record(10_000, values);
        egress.record(20_000, values / 10);
        let workers = [("egress".to_owned(), egress)].into();
        let histograms = Histograms { workers, ..Histograms::default() };
        Reading { at: Instant::now(), status, histograms }
    }

    fn screen(width: u16, height: u16, model: &mut Model) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(width));
        let text: Vec<_> =
            rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>()).collect();
        text.join("\n")
    }
}
