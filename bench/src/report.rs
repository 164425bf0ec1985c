//! The table at the end.

use std::fmt;
use std::time::Duration;

/// One ratio of two rates, or of two sizes.
#[derive(Debug)]
pub struct Line {
    pub what: String,
    /// Of both.
    pub unit: &'static str,
    pub ours: f64,
    pub yardstick: f64,
    pub yardstick_name: &'static str,
    /// What the ratio must not fall below.
    pub least: f64,
    /// Of sizes: the ratio is that of the yardstick to ours.
    pub less_is_better: bool,
}

impl Line {
    fn ratio(&self) -> f64 {
        if self.less_is_better { self.yardstick / self.ours } else { self.ours / self.yardstick }
    }
}

#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
    notes: Vec<String>,
}

impl Report {
    pub fn add(&mut self, line: Line) {
        println!("{}: {:.0} against {:.0} {} ({})", line.what, line.ours, line.yardstick, line.unit, line.yardstick_name);
        self.lines.push(line);
    }

    /// A figure without a limit.
    pub fn note(&mut self, text: String) {
        println!("{text}");
        self.notes.push(text);
    }

    pub fn holds(&self) -> bool {
        self.lines.iter().all(|line| line.ratio() >= line.least)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        writeln!(f, "\n{:<38} {:>12} {:>12} {:>8} {:>7} {:>7}  yardstick", "", "farebox", "yardstick", "", "ratio", "least")?;
        for line in &self.lines {
            let verdict = if line.ratio() >= line.least { "" } else { "  BELOW" };
            writeln!(
                f,
                "{:<38} {:>12.0} {:>12.0} {:>8} {:>7.2} {:>7.2}  {}{verdict}",
                line.what,
                line.ours,
                line.yardstick,
                line.unit,
                line.ratio(),
                line.least,
                line.yardstick_name
            )?;
        }
        Ok(())
    }
}

/// Events a second.
#[expect(clippy::cast_precision_loss, reason = "a rate to look at; nothing is billed by it")]
pub fn rate(events: usize, time: Duration) -> f64 {
    events as f64 / time.as_secs_f64()
}

/// Of an odd number of measurements, the one in the middle.
pub fn median(rates: &mut [f64]) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
