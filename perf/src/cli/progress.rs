//! The progress line on standard error.

use std::io::{IsTerminal, stderr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use twill_shell::print_error;

/// How often the line on a terminal changes.
const TICK: Duration = Duration::from_millis(200);

/// Shows on standard error which step runs and how long the rest will take: one changing line on a
/// terminal, one line for each step elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    steps: usize,
    step: usize,
    left: Duration,
}

impl Progress {
    /// Expects so many steps that take about so long together.
    pub(crate) fn new(steps: usize, expected: Duration) -> Self {
        Self { terminal: stderr().is_terminal(), steps, step: 0, left: expected }
    }

    /// Does one step that takes about `expected`.
    pub(crate) fn step<T>(
        &mut self,
        label: &str,
        expected: Duration,
        work: impl FnOnce() -> T,
    ) -> T {
        self.step += 1;
        let start = Instant::now();
        let result = if self.terminal {
            thread::scope(|scope| {
                let (done, finished) = mpsc::channel::<()>();
                let (this, left) = (&*self, self.left);
                scope.spawn(move || {
                    this.draw(label, left);
                    // Ends when `done` is dropped, after the work or in its panic.
                    while finished.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                        this.draw(label, left.saturating_sub(start.elapsed().min(expected)));
                    }
                });
                let result = work();
                drop(done);
                result
            })
        } else {
            let (step, steps, left) = (self.step, self.steps, clock(self.left));
            print_error(&format!("[{step}/{steps}] {label} ({left} left)\n"));
            work()
        };
        self.left = self.left.saturating_sub(expected);
        result
    }

    /// Leaves out so many steps, which would have taken `expected`.
    pub(crate) fn skip(&mut self, steps: usize, expected: Duration) {
        self.steps = self.steps.saturating_sub(steps);
        self.left = self.left.saturating_sub(expected);
    }

    /// Removes the line.
    pub(crate) fn finish(self) {
        clear_line();
    }

    fn draw(&self, label: &str, left: Duration) {
        const WIDTH: usize = 20;
        let filled = (self.step - 1) * WIDTH / self.steps.max(1);
        let bar = format!("{}{}", "━".repeat(filled), "─".repeat(WIDTH - filled));
        let left = clock(left);
        let (step, steps) = (self.step, self.steps);
        print_error(&format!("\r\x1b[K{bar} {step}/{steps}  {label}  {left} left"));
    }
}

/// Removes the line from a terminal.
pub(crate) fn clear_line() {
    if stderr().is_terminal() {
        print_error("\r\x1b[K");
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
