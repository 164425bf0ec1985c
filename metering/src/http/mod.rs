//! The management routes of this room.

mod consumers;
mod listings;
mod usage;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::period::start_of_day;
use farebox_core::problem::Problem;
use farebox_core::workspace;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::dimension::Dimension;

pub fn router(app: &App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(usage::usage))
        .routes(routes!(consumers::list, consumers::create))
        .routes(routes!(consumers::get))
        .routes(routes!(consumers::link))
        .routes(routes!(listings::events))
        .routes(routes!(listings::meters))
        .routes(routes!(listings::apis))
        .routes(routes!(listings::sources))
        .routes(routes!(listings::pipeline))
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

    /// `filter[dimension]=value`; one dimension given several times may have any of the values.
    fn filters(&mut self) -> Result<Vec<(Dimension, Vec<String>)>, Problem> {
        let mut filters: Vec<(Dimension, Vec<String>)> = Vec::new();
        let mut wrong = None;
        self.0.retain(|(name, value)| {
            let Some(dimension) = name.strip_prefix("filter[").and_then(|rest| rest.strip_suffix(']')) else { return true };
            match dimension.parse::<Dimension>() {
                Ok(dimension) => match filters.iter_mut().find(|(d, _)| *d == dimension) {
                    Some((_, values)) => values.push(value.clone()),
                    None => filters.push((dimension, vec![value.clone()])),
                },
                Err(error) => wrong = Some(Problem::invalid_field(name, error.to_string())),
            }
            false
        });
        if filters.iter().map(|(_, values)| values.len()).sum::<usize>() > 200 {
            return Err(Problem::invalid_field("filter", "has at most 200 values"));
        }
        wrong.map_or(Ok(filters), Err)
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

async fn zone_of(app: &App, workspace: &WorkspaceId) -> Result<Tz, Problem> {
    let found = workspace::by_id(&mut *app.pg.acquire().await?, workspace).await.map_err(|e| Problem::internal(&e))?;
    Ok(found.ok_or_else(|| Problem::not_found("workspace"))?.time_zone)
}
