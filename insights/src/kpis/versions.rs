//! Version adoption: calls and consumers by api version over time, and who is still on a deprecated one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_metering::apis;
use farebox_metering::dimension::Dimension;
use serde::Serialize;

use super::setting::{About, Common, Setting};
use super::table::{Table, Tabular};
use super::traffic::{self, Named};
use crate::action::CallFilter;
use crate::calendar::{Calendar, Interval};
use crate::error::KpiError;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Default)]
pub struct VersionsParams {
    pub common: Common,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct VersionsAnswer {
    #[serde(flatten)]
    pub about: About,
    pub rows: Vec<VersionRow>,
    /// Versions of the catalogue that should be left, and those who called them in the range.
    pub deprecated: Vec<Deprecated>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct VersionRow {
    /// First day of the interval.
    pub period: NaiveDate,
    pub api: String,
    pub version: String,
    pub calls: u64,
    /// Distinct ones that called it.
    pub consumers: u64,
    pub complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Deprecated {
    pub api: String,
    pub version: String,
    pub deprecated: NaiveDate,
    /// When it is switched off.
    pub sunset: Option<NaiveDate>,
    /// The one with most calls first.
    pub consumers: Vec<StillOnIt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StillOnIt {
    pub consumer: Named,
    /// Whom to contact.
    pub email: Option<String>,
    pub calls: u64,
    /// The day of its last call in the range.
    pub last_call: NaiveDate,
}

pub async fn versions(app: &App, workspace: &WorkspaceId, params: &VersionsParams) -> Result<VersionsAnswer, KpiError> {
    let setting = Setting::resolve(app, workspace, &params.common, Interval::Week).await?;
    let dimensions = [Dimension::Api, Dimension::ApiVersion, Dimension::Consumer];
    let found = traffic::calls(app, &setting, setting.period(), &setting.filter, &dimensions).await?;
    let mut by_version: BTreeMap<(i64, String, String), (u64, BTreeSet<String>)> = BTreeMap::new();
    for ((number, group), calls) in found {
        let Ok([api, version, consumer]) = <[String; 3]>::try_from(group) else { continue };
        let (total, consumers) = by_version.entry((number, api, version)).or_default();
        *total += calls;
        if !consumer.is_empty() {
            consumers.insert(consumer);
        }
    }
    let rows = by_version
        .into_iter()
        .map(|((number, api, version), (calls, consumers))| VersionRow {
            period: setting.calendar.first_day(number),
            api,
            version,
            calls,
            consumers: consumers.len() as u64,
            complete: setting.observed.is_complete(number),
        })
        .collect();
    let formula = "Calls: every request, by api and version as the gateway named them; consumers: distinct ones with a call. Deprecated: versions the \
                   catalogue marks so, and the consumers with a call to them in the range.";
    let deprecated = deprecated(app, &setting).await?;
    Ok(VersionsAnswer { about: setting.about("versions", VERSION, formula.to_owned()), rows, deprecated })
}

async fn deprecated(app: &App, setting: &Setting) -> Result<Vec<Deprecated>, KpiError> {
    let listed = apis::list(&mut *app.pg.acquire().await?, &setting.workspace).await?;
    let mut found = Vec::new();
    for api in listed {
        for version in api.versions {
            let Some(deprecated) = version.deprecated else { continue };
            let narrowed = CallFilter { api: Some(api.name.clone()), version: Some(version.name.clone()), route: None };
            let consumers = match setting.filter.and(&narrowed) {
                Some(filter) => still_on_it(app, setting, &filter).await?,
                None => continue,
            };
            found.push(Deprecated { api: api.name.clone(), version: version.name, deprecated, sunset: version.sunset, consumers });
        }
    }
    Ok(found)
}

async fn still_on_it(app: &App, setting: &Setting, filter: &CallFilter) -> Result<Vec<StillOnIt>, KpiError> {
    let calendar = Calendar { interval: Interval::Day, ..setting.calendar };
    let by_day = Setting { calendar, ..setting.clone() };
    let found = traffic::calls(app, &by_day, setting.period(), filter, &[Dimension::Consumer]).await?;
    let mut consumers: BTreeMap<String, (u64, i64)> = BTreeMap::new();
    for ((day, group), calls) in found {
        let (total, last) = consumers.entry(group.into_iter().next().unwrap_or_default()).or_insert((0, day));
        *total += calls;
        *last = day.max(*last);
    }
    let ids: Vec<_> = consumers.keys().cloned().collect();
    let known = traffic::consumers_by_id(app, &setting.workspace, &ids).await?;
    let mut still: Vec<_> = consumers
        .into_iter()
        .filter_map(|(id, (calls, last))| {
            let consumer = known.get(&id)?;
            Some(StillOnIt {
                consumer: Named { id: consumer.id.clone(), name: consumer.name.clone() },
                email: consumer.email.clone(),
                calls,
                last_call: calendar.first_day(last),
            })
        })
        .collect();
    still.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.consumer.id.cmp(&b.consumer.id)));
    Ok(still)
}

impl Tabular for VersionsAnswer {
    fn table(&self) -> Table {
        let line = |r: &VersionRow| {
            vec![
                r.period.to_string(),
                r.api.clone(),
                r.version.clone(),
                r.calls.to_string(),
                r.consumers.to_string(),
                r.complete.to_string(),
            ]
        };
        Table { header: vec!["period", "api", "version", "calls", "consumers", "complete"], rows: self.rows.iter().map(line).collect() }
    }
}
