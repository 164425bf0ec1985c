//! Progress of long work: a spinner or bar per step on a terminal, a line per step elsewhere.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step. Say how it ended with [`Step::done`]; a step dropped before that vanishes.
pub struct Step {
    bar: ProgressBar,
    name: &'static str,
    started: Instant,
    terminal: bool,
}

impl Step {
    pub fn start(name: &'static str) -> Self {
        Self::with_length(name, None)
    }

    /// A step of `length` parts; tell each with [`Step::advance`].
    pub fn of(name: &'static str, length: u64) -> Self {
        Self::with_length(name, Some(length))
    }

    fn with_length(name: &'static str, length: Option<u64>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new(length.unwrap_or(0)) } else { ProgressBar::hidden() };
        let template =
            if length.is_some() { "{spinner} {prefix:26} {bar:30} {percent:>3} %  {msg}" } else { "{spinner} {prefix:26} {msg}" };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, name, started: Instant::now(), terminal }
    }

    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
    }

    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// A step that shows nothing: part of another one.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), name: "", started: Instant::now(), terminal: false }
    }

    pub fn say(&self, message: impl Into<Cow<'static, str>>) {
        self.bar.set_message(message);
    }

    /// Leaves one tidy line: what was done, how it ended, how long it took.
    pub fn done(self, outcome: &str) {
        self.bar.finish_and_clear();
        let line = format!("  ✓ {:26} {outcome} ({:.1} s)", self.name, self.started.elapsed().as_secs_f64());
        if self.terminal { eprintln!("{line}") } else { say!("{line}") }
    }
}
