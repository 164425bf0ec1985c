//! The ground truth of a run, and its comparison with what Farebox answers.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use farebox_core::clock;
use serde::{Deserialize, Serialize};

use crate::instance::Instance;

/// What was really sent. Counted while sending, never read back from Farebox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Truth {
    /// Names the run; the source of its events.
    pub run: String,
    /// Events on the wire, copies and malformed ones included.
    pub sent: u64,
    /// Requests that must be counted.
    pub distinct: u64,
    pub duplicates: u64,
    pub late: u64,
    pub malformed: u64,
    /// When sending began.
    pub started: DateTime<Utc>,
    /// The time of the earliest request.
    pub earliest: DateTime<Utc>,
    /// Subject -> consumer id.
    pub consumers: BTreeMap<String, String>,
    pub rows: Vec<Row>,
    /// Meter -> value over all consumers: `calls` is everything, `requests` what counts by the default rule.
    pub meters: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub subject: String,
    pub route: String,
    pub status: u16,
    pub calls: u64,
}

pub struct Call {
    pub subject: String,
    pub route: String,
    pub status: u16,
    pub time: DateTime<Utc>,
}

/// One number that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub truth: u64,
    pub counted: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: sent {}, counted {}", self.what, self.truth, self.counted)
    }
}

impl Truth {
    pub fn new(run: &str) -> Self {
        Self {
            run: run.to_owned(),
            sent: 0,
            distinct: 0,
            duplicates: 0,
            late: 0,
            malformed: 0,
            started: clock::now(),
            earliest: clock::now(),
            consumers: BTreeMap::new(),
            rows: Vec::new(),
            meters: BTreeMap::from([("calls".to_owned(), 0), ("requests".to_owned(), 0)]),
        }
    }

    pub fn count(&mut self, call: Call) {
        self.distinct += 1;
        self.earliest = self.earliest.min(call.time);
        *self.meters.entry("calls".to_owned()).or_default() += 1;
        // The default counting rule; 429 is always the gateway's in this traffic, 404 always has a route.
        if call.status < 500 && call.status != 429 {
            *self.meters.entry("requests".to_owned()).or_default() += 1;
        }
        match self.rows.iter_mut().find(|r| r.subject == call.subject && r.route == call.route && r.status == call.status) {
            Some(row) => row.calls += 1,
            None => self.rows.push(Row { subject: call.subject, route: call.route, status: call.status, calls: 1 }),
        }
    }

    /// Every number of the truth that Farebox answers otherwise.
    pub async fn compare(&self, instance: &Instance) -> anyhow::Result<Vec<Difference>> {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for row in &self.rows {
            let consumer = self.consumers.get(&row.subject).context("a subject of the truth has no consumer")?;
            expected.insert(format!("{consumer} {} {}", row.route, row.status), row.calls);
        }
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for consumer in self.consumers.values() {
            for (group, value) in self.usage(instance, "calls", &format!("&consumer={consumer}&group_by=route&group_by=status")).await? {
                counted.insert(format!("{consumer} {group}"), value);
            }
        }
        let mut differences = Self::differ(&expected, &counted);
        for (meter, truth) in &self.meters {
            let mut value = 0;
            for consumer in self.consumers.values() {
                value += self.usage(instance, meter, &format!("&consumer={consumer}")).await?.into_values().sum::<u64>();
            }
            if value != *truth {
                differences.push(Difference { what: format!("meter {meter}"), truth: *truth, counted: value });
            }
        }
        let letters = self.dead_letters(instance).await?;
        if letters != self.malformed {
            differences.push(Difference { what: "dead letters".to_owned(), truth: self.malformed, counted: letters });
        }
        Ok(differences)
    }

    fn differ(expected: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>) -> Vec<Difference> {
        let names: std::collections::BTreeSet<_> = expected.keys().chain(counted.keys()).collect();
        let value = |of: &BTreeMap<String, u64>, name: &String| of.get(name).copied().unwrap_or_default();
        names
            .into_iter()
            .map(|name| Difference { what: name.clone(), truth: value(expected, name), counted: value(counted, name) })
            .filter(|d| d.truth != d.counted)
            .collect()
    }

    /// Group ("route status", or empty) -> value, over the whole run.
    async fn usage(&self, instance: &Instance, meter: &str, rest: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (from, to) = (self.earliest - TimeDelta::minutes(1), clock::now() + TimeDelta::minutes(10));
        let answer = instance.get(&format!("/api/v1/usage?meter={meter}&window=none&from={}&to={}{rest}", text(from), text(to))).await?;
        let rows = answer["data"].as_array().context("the usage answer has no `data`")?;
        rows.iter()
            .map(|row| {
                let part = |name: &str| {
                    row["group"][name].as_str().map(str::to_owned).or_else(|| row["group"][name].as_u64().map(|n| n.to_string()))
                };
                let group: Vec<_> = ["route", "status"].into_iter().filter_map(part).collect();
                let value = row["value"].as_str().context("a usage row has no `value`")?;
                Ok((group.join(" "), value.parse().with_context(|| format!("`{value}` is not a count"))?))
            })
            .collect()
    }

    async fn dead_letters(&self, instance: &Instance) -> anyhow::Result<u64> {
        let mut count = 0;
        let mut cursor = String::new();
        let since = self.started.to_rfc3339_opts(SecondsFormat::Micros, true);
        loop {
            let page = instance.get(&format!("/api/v1/dead-letters?since={since}&limit=500{cursor}")).await?;
            let letters = page["data"].as_array().context("the dead letters have no `data`")?;
            let ours = |letter: &&serde_json::Value| {
                letter["event_source"] == self.run.as_str() && letter["reason"].as_str().is_some_and(|r| !r.is_empty())
            };
            count += letters.iter().filter(ours).count() as u64;
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(count),
            }
        }
    }
}
