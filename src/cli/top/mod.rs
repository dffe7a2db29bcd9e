//! `twill top`: rates, latencies, drops and peers of a running gateway, live.
//!
//! One thread asks the gateway, another draws and reads keys: a slow gateway does not delay keys.

mod model;
mod view;

use super::show::{histograms, status};
use super::{GatewayArgs, Outcome};
use clap::Args;
use model::{Model, Reading};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Longest delay of a key, a resize or a signal.
const RESPONSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Set the interval between readings
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    interval: u32,
}

pub(super) fn top(args: &TopArgs) -> Outcome {
    if !io::stdout().is_terminal() {
        return Err("top needs a terminal: use `twill status` to print once".into());
    }
    let every = Duration::from_secs(args.interval.into());
    let socket = args.gateway.socket()?;
    // Read before the screen changes, so that an error stays visible.
    let first = read(&socket)?;
    let told_to_end = told_to_end()?;
    let (send, readings) = mpsc::channel();
    std::thread::spawn(move || ask(&socket, every, &send));
    let mut terminal = ratatui::try_init()?;
    let done = watch(&mut terminal, Model::new(first), &readings, &told_to_end);
    ratatui::restore();
    Ok(done?)
}

/// Sends a reading or an error per interval, until the receiver is gone.
fn ask(socket: &Path, every: Duration, send: &Sender<Result<Reading, String>>) {
    loop {
        std::thread::sleep(every);
        if send.send(read(socket).map_err(|error| error.to_string())).is_err() {
            return;
        }
    }
}

fn read(socket: &Path) -> Result<Reading, Box<dyn std::error::Error>> {
    let (status, histograms) = (status(socket)?, histograms(socket)?);
    Ok(Reading { at: Instant::now(), status, histograms })
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

/// A flag that SIGTERM, SIGINT and SIGHUP set, so that the terminal is restored before the end.
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
        // Waiting for keys never ends on a terminal that was closed, which needs no restoring.
        std::thread::sleep(40 * RESPONSE);
        std::process::exit(0);
    });
    Ok(flag)
}
