//! The management routes of this room.

mod audit;
mod consumers;
mod corrections;
mod history;
mod listings;
mod meters;
mod retention;
mod rule;
mod tail;
mod usage;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::start_of_day;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::MeteringError;
use crate::dimension::Dimension;
use crate::filter::{Condition, Filter, Number, Test};

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(usage::usage))
        .routes(routes!(usage::behind))
        .routes(routes!(usage::proof))
        .routes(routes!(tail::tail))
        .routes(routes!(meters::list))
        .routes(routes!(meters::progress))
        .routes(routes!(meters::errors))
        .routes(routes!(consumers::list, consumers::create))
        .routes(routes!(consumers::get))
        .routes(routes!(consumers::link))
        .routes(routes!(consumers::move_key))
        .routes(routes!(listings::events))
        .routes(routes!(corrections::list, corrections::create))
        .routes(routes!(corrections::duplicates))
        .routes(routes!(corrections::removed))
        .routes(routes!(rule::get, rule::put))
        .routes(routes!(rule::preview))
        .routes(routes!(rule::unattributed))
        .routes(routes!(listings::apis))
        .routes(routes!(listings::sources))
        .routes(routes!(listings::pipeline))
        .routes(routes!(history::list, history::create))
        .routes(routes!(history::get, history::cancel))
        .routes(routes!(history::chunk).layer(history::limit()))
        .routes(routes!(history::preview))
        .routes(routes!(history::commit))
        .routes(routes!(retention::get, retention::put))
        .routes(routes!(retention::erase, retention::erasures))
        .routes(routes!(audit::pipeline))
        .routes(routes!(audit::hours))
        .with_state(app.clone())
}

/// Query parameters that were named and not yet read; what is left over is a mistake.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The last value of a parameter, none when it is empty.
    fn one(&mut self, name: &str) -> Option<String> {
        self.many(name).pop().filter(|value| !value.is_empty())
    }

    fn many(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.0.retain(|(n, value)| {
            if n == name {
                values.push(value.clone());
            }
            n != name
        });
        values
    }

    /// `filter[dimension]=value`; one dimension given several times may have any of the values. And
    /// `filter[dimension][test]=value`, the test being not, gt, gte, lt, lte, prefix or exists.
    fn filters(&mut self) -> Result<Vec<Filter>, Problem> {
        let mut filters: Vec<Filter> = Vec::new();
        let mut rest = Vec::new();
        for (name, value) in std::mem::take(&mut self.0) {
            match name.strip_prefix("filter[").and_then(|inner| inner.strip_suffix(']')) {
                Some(inner) => add_filter(&mut filters, &name, inner, value)?,
                None => rest.push((name, value)),
            }
        }
        self.0 = rest;
        Ok(filters)
    }

    fn instant(&mut self, name: &str, zone: Tz) -> Result<Option<DateTime<Utc>>, Problem> {
        let Some(text) = self.one(name) else { return Ok(None) };
        let date = || text.parse::<NaiveDate>().ok().map(|date| start_of_day(date, zone));
        let instant = DateTime::parse_from_rfc3339(&text).ok().map(|at| at.with_timezone(&Utc)).or_else(date);
        // What ClickHouse can hold.
        let known = instant.filter(|at| (0..=4_102_444_800).contains(&at.timestamp()));
        known.map(Some).ok_or_else(|| Problem::invalid_field(name, "must be an RFC 3339 time such as 2026-10-01T00:00:00Z, or a date"))
    }

    fn limit(&mut self, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.one("limit") else { return Ok(default) };
        let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| Problem::invalid_field("limit", format!("must be 1 to {most}")))
    }

    fn done(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid_field(name, "is not a parameter of this route")),
        }
    }
}

fn add_filter(filters: &mut Vec<Filter>, name: &str, inner: &str, value: String) -> Result<(), Problem> {
    let wrong = |detail: String| Problem::invalid_field(name, detail);
    let (dimension, test) = inner.split_once("][").map_or((inner, None), |(dimension, test)| (dimension, Some(test)));
    let dimension: Dimension = dimension.parse().map_err(|e: MeteringError| wrong(e.to_string()))?;
    let value = if dimension == Dimension::Consumer && value == UNKNOWN { String::new() } else { value };
    let number = |value: &str| {
        let plain = value.parse::<Number>().ok().filter(|_| value.len() <= 64);
        plain.ok_or_else(|| wrong("is compared with a decimal, such as 500 or 0.25".to_owned()))
    };
    let condition = match test {
        None => {
            if let Some(Filter { test: Test::In(values), .. }) =
                filters.iter_mut().find(|f| f.dimension == dimension && matches!(f.test, Test::In(_)))
            {
                values.push(value);
                return Ok(());
            }
            filters.push(Filter::is(dimension, value));
            return Ok(());
        }
        Some("not") => Condition::NotIn(vec![value]),
        Some("gt") => Condition::Gt(number(&value)?),
        Some("gte") => Condition::Gte(number(&value)?),
        Some("lt") => Condition::Lt(number(&value)?),
        Some("lte") => Condition::Lte(number(&value)?),
        Some("prefix") => Condition::Prefix(value),
        Some("exists") => Condition::Exists(match value.as_str() {
            "true" => true,
            "false" => false,
            _ => return Err(wrong("is true or false".to_owned())),
        }),
        Some(other) => {
            return Err(wrong(format!(
                "there is no test `{}`; there are not, gt, gte, lt, lte, prefix and exists",
                other.chars().take(32).collect::<String>()
            )));
        }
    };
    filters.push(Filter { dimension, test: Test::Other(condition) });
    Ok(())
}

/// How nobody's usage is named: the consumer of what no link attributes.
const UNKNOWN: &str = "unknown";

async fn zone_of(app: &App, workspace: &WorkspaceId) -> Result<Tz, Problem> {
    let found = workspace::by_id(&mut *app.pg.acquire().await?, workspace).await.map_err(|e| Problem::internal(&e))?;
    Ok(found.ok_or_else(|| Problem::not_found("workspace"))?.time_zone)
}
