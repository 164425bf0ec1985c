//! Decoding a gateway's record, against `serde_json::Value` parsing of the same bytes: what a decoder would start with
//! that does not read for itself.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use farebox_core::source::FORMATS;
use farebox_ingest::formats::Format;

use crate::report::{Line, Report, median};

/// The least ratio to keep.
const LEAST: f64 = 1.0;
const TURNS: usize = 5;
/// Records, each with digits of its own, so that nothing learns them by heart.
const RECORDS: usize = 500;

pub fn measure(time: Duration, report: &mut Report) -> anyhow::Result<()> {
    for name in FORMATS {
        let format = Format::parse(name).context("the list has only formats that there are")?;
        let file = format!("{}/../ingest/samples/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let sample = std::fs::read_to_string(&file).with_context(|| format!("{file} cannot be read"))?;
        let records: Vec<Vec<u8>> = (0..RECORDS).map(|n| varied(sample.trim_end(), n)).collect();
        ensure!(records.iter().all(|record| format.decode(record).is_ok()), "every record of {name} can be read");
        let (mut ours, mut yardstick) = (Vec::new(), Vec::new());
        let turn = time / 4;
        for _ in 0..TURNS {
            yardstick.push(rate(&records, turn, |record| serde_json::from_slice::<serde_json::Value>(record).is_ok()));
            ours.push(rate(&records, turn, |record| format.decode(record).is_ok()));
        }
        report.add(Line {
            what: format!("decode, {name}"),
            unit: "MB/s",
            ours: median(&mut ours),
            yardstick: median(&mut yardstick),
            yardstick_name: "serde_json::Value of the same bytes",
            least: LEAST,
            less_is_better: false,
        });
    }
    Ok(())
}

/// The sample with its sevens exchanged for another digit: as long, and as right.
fn varied(sample: &str, n: usize) -> Vec<u8> {
    let digits = b"1234567890";
    sample.bytes().enumerate().map(|(at, b)| if b == b'7' { digits[(at + n) % 9] } else { b }).collect()
}

/// MB a second.
#[expect(clippy::cast_precision_loss, reason = "a rate to look at; nothing is billed by it")]
fn rate(records: &[Vec<u8>], time: Duration, read: impl Fn(&[u8]) -> bool) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < time {
        for record in records {
            assert!(std::hint::black_box(read(std::hint::black_box(record))), "it was read before");
            bytes += record.len();
        }
    }
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}
