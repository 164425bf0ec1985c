//! What a call costs: rules by api and route, each from an instant on. The most exact rule holds: one for an api before
//! one for all, a whole route before the beginning of one, the longer beginning before the shorter.

use chrono::{DateTime, Utc};
use farebox_core::ids::WorkspaceId;
use farebox_core::money::{BigDecimal, decimal_string};
use farebox_core::period::{Period, floor_minute};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::BillingError;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CallCost)]
pub struct Cost {
    /// The api's name; every api when left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api: String,
    /// `GET /search`, or the beginning of one: `GET /orders*`; `*` is every route.
    pub route: String,
    /// Exact, in major units of the workspace's currency.
    #[serde(with = "decimal_string")]
    #[schema(value_type = String)]
    pub per_call: BigDecimal,
    /// From when it holds; ever since unless given.
    #[serde(default = "ever", skip_serializing_if = "is_ever")]
    pub from: DateTime<Utc>,
}

pub(crate) fn ever() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn is_ever(at: &DateTime<Utc>) -> bool {
    *at == ever()
}

pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Cost>, BillingError> {
    Ok(sqlx::query_as!(
        Cost,
        r#"SELECT api, route, per_call, from_at AS "from" FROM call_costs WHERE workspace_id = $1 ORDER BY api, route, from_at"#,
        ws.as_str()
    )
    .fetch_all(conn)
    .await?)
}

/// The whole list, instead of the one before. True when that changed something.
pub async fn set(conn: &mut PgConnection, ws: &WorkspaceId, costs: &[Cost]) -> Result<bool, BillingError> {
    let mut new: Vec<_> = costs.iter().map(|cost| Cost { from: floor_minute(cost.from), ..cost.clone() }).collect();
    for (n, cost) in new.iter().enumerate() {
        if cost.per_call < BigDecimal::from(0) {
            return Err(BillingError::invalid(format!("/costs/{n}/per_call"), "must not be negative"));
        }
        if cost.route.trim_end_matches('*').contains('*') || cost.route.is_empty() || cost.route.len() > 500 {
            return Err(BillingError::invalid(
                format!("/costs/{n}/route"),
                "is a route such as GET /search, or its beginning and a `*` at the end",
            ));
        }
    }
    new.sort_by(|a, b| (&a.api, &a.route, a.from).cmp(&(&b.api, &b.route, b.from)));
    if let Some(twice) =
        new.windows(2).find(|pair| (&pair[0].api, &pair[0].route, pair[0].from) == (&pair[1].api, &pair[1].route, pair[1].from))
    {
        return Err(BillingError::invalid("/costs", format!("has `{}` from the same instant twice", twice[0].route)));
    }
    if list(conn, ws).await? == new {
        return Ok(false);
    }
    sqlx::query!("DELETE FROM call_costs WHERE workspace_id = $1", ws.as_str()).execute(&mut *conn).await?;
    for cost in &new {
        sqlx::query!(
            "INSERT INTO call_costs (workspace_id, api, route, from_at, per_call) VALUES ($1, $2, $3, $4, $5)",
            ws.as_str(),
            cost.api,
            cost.route,
            cost.from,
            cost.per_call
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(true)
}

/// Where a rule begins to hold within the period: between these, what a call costs is the same.
pub fn stretches(costs: &[Cost], period: Period) -> Vec<Period> {
    let mut cuts: Vec<_> = costs.iter().map(|cost| cost.from).filter(|at| period.start < *at && *at < period.end).collect();
    cuts.extend([period.start, period.end]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|pair| Period { start: pair[0], end: pair[1] }).collect()
}

/// What a call costs at an instant; nothing where no rule holds.
pub fn of_call<'a>(costs: &'a [Cost], api: &str, route: &str, at: DateTime<Utc>) -> Option<&'a BigDecimal> {
    let holds = |cost: &&Cost| {
        cost.from <= at
            && (cost.api.is_empty() || cost.api == api)
            && cost.route.strip_suffix('*').map_or(cost.route == route, |beginning| route.starts_with(beginning))
    };
    let exactness = |cost: &&Cost| (!cost.api.is_empty(), !cost.route.ends_with('*'), cost.route.len(), cost.from);
    costs.iter().filter(holds).max_by_key(exactness).map(|cost| &cost.per_call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(api: &str, route: &str, per_call: &str, from: &str) -> Cost {
        let from = if from.is_empty() { ever() } else { from.parse().expect("an instant") };
        Cost { api: api.to_owned(), route: route.to_owned(), per_call: per_call.parse().expect("a decimal"), from }
    }

    #[test]
    fn the_most_exact_rule_holds_from_its_instant_on() {
        let costs = [
            cost("", "*", "0.0001", ""),
            cost("", "GET /orders*", "0.0002", ""),
            cost("orders", "GET /orders*", "0.0003", ""),
            cost("", "GET /orders/export", "0.5", ""),
            cost("", "GET /orders*", "0.0004", "2026-10-01T00:00:00Z"),
        ];
        let of = |api: &str, route: &str, at: &str| {
            of_call(&costs, api, route, at.parse().expect("an instant")).map(|cost| cost.normalized().to_plain_string()).unwrap_or_default()
        };
        assert_eq!(of("search", "GET /search", "2026-09-01T00:00:00Z"), "0.0001");
        assert_eq!(of("search", "GET /orders/1", "2026-09-30T23:59:59Z"), "0.0002");
        assert_eq!(of("search", "GET /orders/1", "2026-10-01T00:00:00Z"), "0.0004");
        assert_eq!(of("orders", "GET /orders/1", "2026-10-01T00:00:00Z"), "0.0003", "one for the api before one for all");
        assert_eq!(of("search", "GET /orders/export", "2026-10-01T00:00:00Z"), "0.5", "a whole route before a beginning");
        assert!(of_call(&costs[4..], "search", "GET /orders/1", ever()).is_none());
    }

    #[test]
    fn a_period_is_cut_where_a_rule_begins() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("an instant");
        let period = Period { start: at("2026-09-15T00:00:00Z"), end: at("2026-10-15T00:00:00Z") };
        let costs = [cost("", "*", "1", ""), cost("", "*", "2", "2026-10-01T00:00:00Z"), cost("", "*", "3", "2027-01-01T00:00:00Z")];
        let cut: Vec<_> = stretches(&costs, period).into_iter().map(|p| p.start).collect();
        assert_eq!(cut, [at("2026-09-15T00:00:00Z"), at("2026-10-01T00:00:00Z")]);
    }
}
