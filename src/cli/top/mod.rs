//! `twill top`: a running gateway, live.
//!
//! One thread asks the gateway, so that a slow one cannot make the keys sluggish; this one draws.

mod model;
mod view;

use super::show::{histograms, snapshot};
use super::{GatewayArgs, Outcome};
use clap::Args;
use model::{Model, Reading};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a key, a resize or a signal may wait.
const RESPONSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Seconds between two readings.
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    interval: u32,
}

pub(super) fn top(args: &TopArgs) -> Outcome {
    if !io::stdout().is_terminal() {
        return Err("top needs a terminal; `twill status` prints once".into());
    }
    let every = Duration::from_secs(args.interval.into());
    // The first reading comes before the screen is taken: its errors are seen.
    let first = read(&args.gateway)?;
    let told_to_end = told_to_end()?;
    let (send, readings) = mpsc::channel();
    let gateway = args.gateway.clone();
    std::thread::spawn(move || ask(&gateway, every, &send));
    let mut terminal = ratatui::try_init()?;
    let done = watch(&mut terminal, Model::new(first), &readings, &told_to_end);
    ratatui::restore();
    Ok(done?)
}

/// Readings, or why there is none, at an interval and for as long as somebody wants them.
fn ask(gateway: &GatewayArgs, every: Duration, send: &Sender<Result<Reading, String>>) {
    loop {
        std::thread::sleep(every);
        if send.send(read(gateway).map_err(|error| error.to_string())).is_err() {
            return;
        }
    }
}

fn read(gateway: &GatewayArgs) -> Result<Reading, Box<dyn std::error::Error>> {
    let (snapshot, histograms) = (snapshot(gateway)?, histograms(gateway)?);
    Ok(Reading { at: Instant::now(), snapshot, histograms })
}

fn watch(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    readings: &Receiver<Result<Reading, String>>,
    told_to_end: &AtomicBool,
) -> io::Result<()> {
    let mut changed = true;
    while !told_to_end.load(Ordering::Relaxed) {
        for reading in readings.try_iter() {
            model.take(reading);
            changed = true;
        }
        if changed {
            terminal.draw(|frame| view::draw(frame, &mut model))?;
            changed = false;
        }
        if event::poll(RESPONSE)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if control => return Ok(()),
                        KeyCode::Char('s') => model.sort = model.sort.next(),
                        KeyCode::Char('p') => model.paused = !model.paused,
                        KeyCode::Down | KeyCode::Char('j') => model.scroll(1),
                        KeyCode::Up | KeyCode::Char('k') => model.scroll(-1),
                        KeyCode::PageDown => model.scroll(10),
                        KeyCode::PageUp => model.scroll(-10),
                        _ => {}
                    }
                    changed = true;
                }
                Event::Resize(..) => changed = true,
                _ => {}
            }
        }
    }
    Ok(())
}

/// A flag that SIGTERM, SIGINT and SIGHUP set, so that the terminal is put back before the end.
fn told_to_end() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt, mut hangup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        )
    };
    let raised = Arc::clone(&flag);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        raised.store(true, Ordering::Relaxed);
        // A terminal that has gone away holds the wait for keys for ever, and needs no putting back.
        std::thread::sleep(40 * RESPONSE);
        std::process::exit(0);
    });
    Ok(flag)
}
