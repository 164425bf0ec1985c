//! The checklist of a month: what is done, what waits, what stands in the way, and what each step can do about it.
//!
//! A month is open until everything that ended in it is invoiced, then closed softly: what comes late is still
//! corrected. A hard close ends that too; it is refused while anything differs.

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::clock;
use farebox_core::ids::{InvoiceId, WorkspaceId};
use farebox_core::period::Period;
use farebox_core::workspace::{self, Workspace};
use farebox_metering::usage::{self, UsageQuery};
use farebox_metering::{Dimension, completeness, derived, meters, repair, timelines};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{bill_corrections, close_period, open_subscriptions, schedule};
use crate::gather::{Counter, with_corrections};
use crate::{BillingError, audit, calendar, plans, revenue, settings, subscriptions};

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Checklist {
    /// `2026-10`.
    pub period: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub closed: Closed,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    Open,
    /// Everything is invoiced; what comes late is corrected.
    Soft,
    /// For good.
    Hard,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Step {
    pub step: StepName,
    pub state: StepState,
    /// How it stands, and what to do where it does not stand well.
    pub detail: String,
    /// When it was last run, for a step whose result is remembered.
    pub ran_at: Option<DateTime<Utc>>,
    /// Whether it can be run (again).
    pub can_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Done,
    /// Nothing is wrong; it is not there yet.
    Waiting,
    /// A person should look.
    Attention,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    Over,
    Arrived,
    /// Rollups and raw events give the same count.
    Counted,
    MeterErrors,
    Unattributed,
    /// What came after a period was invoiced.
    Late,
    /// Every subscription can be priced in its currency.
    Currencies,
    Drafted,
    /// Every invoice was derived again from raw events.
    Compared,
    Issued,
    Pushed,
    Paid,
}

impl StepName {
    /// As in the API.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Findings that a person may take as they are when a month is closed for good.
pub const ACCEPTABLE: [StepName; 4] = [StepName::MeterErrors, StepName::Unattributed, StepName::Compared, StepName::Late];

struct Look<'a> {
    app: &'a App,
    workspace: Workspace,
    month: Period,
    now: DateTime<Utc>,
}

/// How a month stands.
pub async fn checklist(app: &App, ws: &WorkspaceId, month: Period) -> Result<Checklist, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let workspace = workspace::by_id(&mut conn, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    drop(conn);
    let now = workspace.clock.now();
    let look = Look { app, workspace, month, now };
    let steps = vec![
        look.over(),
        look.arrived().await?,
        look.counted().await?,
        look.meter_errors().await?,
        look.unattributed().await?,
        look.late().await?,
        look.currencies().await?,
        look.drafted().await?,
        look.compared().await?,
        look.issued().await?,
        look.pushed().await?,
        look.paid().await?,
    ];
    let closed = match () {
        () if hard_closed(&mut *app.pg.acquire().await?, ws, month).await? => Closed::Hard,
        () if done(&steps, StepName::Over) && done(&steps, StepName::Drafted) && done(&steps, StepName::Issued) => Closed::Soft,
        () => Closed::Open,
    };
    Ok(Checklist { period: calendar::name(month, look.workspace.time_zone), from: month.start, to: month.end, closed, steps })
}

fn done(steps: &[Step], name: StepName) -> bool {
    steps.iter().any(|step| step.step == name && step.state == StepState::Done)
}

fn step(step: StepName, state: StepState, detail: impl Into<String>) -> Step {
    let can_run = matches!(step, StepName::Counted | StepName::Late | StepName::Drafted | StepName::Compared | StepName::Issued);
    Step { step, state, detail: detail.into(), ran_at: None, can_run }
}

fn when(good: bool, otherwise: StepState) -> StepState {
    if good { StepState::Done } else { otherwise }
}

impl Look<'_> {
    fn ws(&self) -> &WorkspaceId {
        &self.workspace.id
    }

    fn over(&self) -> Step {
        let over = self.now >= self.month.end;
        step(StepName::Over, when(over, StepState::Waiting), format!("The month ends at {}.", self.month.end))
    }

    async fn arrived(&self) -> Result<Step, BillingError> {
        let known = completeness::of(self.app, self.ws()).await?;
        let ahead = schedule::runs_ahead(&self.workspace);
        let arrived = known.complete_until >= self.month.end || self.now >= schedule::grace_end(self.app, self.month) || ahead;
        let late: Vec<_> = known.sources.iter().filter(|source| source.holds_back).map(|source| source.source.as_str()).collect();
        let behind = if late.is_empty() { String::new() } else { format!(" Behind: {}.", late.join(", ")) };
        Ok(step(StepName::Arrived, when(arrived, StepState::Waiting), format!("Usage is complete until {}.{behind}", known.complete_until)))
    }

    async fn counted(&self) -> Result<Step, BillingError> {
        let sum = |rows: Vec<usage::UsageRow>| rows.into_iter().map(|row| row.value).sum::<bigdecimal::BigDecimal>();
        let rolled = sum(usage::query(self.app, &UsageQuery::new(self.ws(), "calls", self.month)).await?.rows);
        // Only raw events know their source, so this counts them one by one.
        let raw = sum(usage::query(self.app, &UsageQuery::new(self.ws(), "calls", self.month).by(Dimension::Source)).await?.rows);
        let detail = if rolled == raw {
            format!("{} calls, by rollups and by raw events.", raw.normalized().to_plain_string())
        } else {
            format!("{} calls by rollups, {} by raw events. Run this step to repair the rollups.", rolled.normalized(), raw.normalized())
        };
        Ok(step(StepName::Counted, when(rolled == raw, StepState::Attention), detail))
    }

    async fn meter_errors(&self) -> Result<Step, BillingError> {
        let all = meters::list(&mut *self.app.pg.acquire().await?, self.ws()).await?;
        let mut wrong = Vec::new();
        for meter in all {
            let name = meter.definition.name;
            match derived::unreadable(self.app, self.ws(), &name, self.month).await? {
                0 => {}
                events => wrong.push(format!("{events} of `{name}`")),
            }
        }
        let detail = if wrong.is_empty() {
            "Every event had the value its meter sums.".to_owned()
        } else {
            format!(
                "Events without a number where their meter looks for it, which add nothing: {}. Correct the sender or the meter.",
                wrong.join(", ")
            )
        };
        Ok(step(StepName::MeterErrors, when(wrong.is_empty(), StepState::Attention), detail))
    }

    async fn unattributed(&self) -> Result<Step, BillingError> {
        let query = UsageQuery::new(self.ws(), "calls", self.month).only(Dimension::Reason, "unattributed");
        let found = usage::query(self.app, &query).await?.rows.into_iter().map(|row| row.value).sum::<bigdecimal::BigDecimal>();
        let none = found == bigdecimal::BigDecimal::from(0);
        let detail = if none {
            "Every call belongs to a consumer.".to_owned()
        } else {
            format!(
                "{} calls belong to nobody. Link their subjects or keys to consumers; what is linked is billed.",
                found.normalized().to_plain_string()
            )
        };
        Ok(step(StepName::Unattributed, when(none, StepState::Attention), detail))
    }

    async fn late(&self) -> Result<Step, BillingError> {
        let mut conn = self.app.pg.acquire().await?;
        let days = i64::from(settings::of(&mut conn, self.ws()).await?.late_days);
        let open = with_corrections(&Counter::new(self.app, self.ws()), &mut conn, &self.workspace, true, days).await?.len();
        let detail = if open == 0 {
            "Nothing came after its period was invoiced that is not corrected.".to_owned()
        } else {
            format!(
                "Events of their periods were touched after {open} subscriptions were invoiced. The next invoices correct what differs; run this step to correct it now, by invoices of their own."
            )
        };
        Ok(step(StepName::Late, when(open == 0, StepState::Attention), detail))
    }

    async fn currencies(&self) -> Result<Step, BillingError> {
        let mut conn = self.app.pg.acquire().await?;
        let mut wrong = Vec::new();
        let open = open_subscriptions(&mut conn, self.ws(), self.month.end).await?;
        for open in open {
            let Some(own) = subscriptions::get(&mut conn, self.ws(), &open.subscription).await? else { continue };
            let currency = subscriptions::currency_of(&own)?;
            let versions = plans::of(&mut conn, self.ws(), own.phases.iter().map(|phase| &phase.plan_version)).await?;
            for plan in versions.values() {
                let missing = revenue::missing_amounts(plan, currency);
                if !missing.is_empty() {
                    wrong.push(format!("{} ({} has no {currency} for {})", own.id, plan.name, missing.join(", ")));
                }
            }
        }
        let detail = if wrong.is_empty() {
            "Every subscription is priced in its own currency; nothing is converted.".to_owned()
        } else {
            format!("Cannot be priced: {}. Move them to a version that has the amounts.", wrong.join("; "))
        };
        Ok(step(StepName::Currencies, when(wrong.is_empty(), StepState::Attention), detail))
    }

    async fn drafted(&self) -> Result<Step, BillingError> {
        let mut conn = self.app.pg.acquire().await?;
        let open = open_subscriptions(&mut conn, self.ws(), self.month.end).await?.len();
        let detail =
            if open == 0 { "Nothing is left to invoice.".to_owned() } else { format!("{open} subscriptions have periods to invoice.") };
        Ok(step(StepName::Drafted, when(open == 0, StepState::Waiting), detail))
    }

    async fn compared(&self) -> Result<Step, BillingError> {
        let row = sqlx::query!(
            "SELECT done, detail, ran_at FROM close_steps WHERE workspace_id = $1 AND period_start = $2 AND step = 'compared'",
            self.ws().as_str(),
            self.month.start
        )
        .fetch_optional(&mut *self.app.pg.acquire().await?)
        .await?;
        Ok(match row {
            None => step(
                StepName::Compared,
                StepState::Waiting,
                "Not compared yet. Run this step to derive every invoice again from raw events.",
            ),
            Some(row) => Step {
                ran_at: Some(row.ran_at),
                ..step(StepName::Compared, when(row.done, StepState::Attention), format!("{}.", row.detail))
            },
        })
    }

    async fn issued(&self) -> Result<Step, BillingError> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE state = 'draft') AS "drafts!", count(*) FILTER (WHERE state <> 'draft') AS "issued!"
               FROM invoices WHERE workspace_id = $1 AND period_end > $2 AND period_end <= $3"#,
            self.ws().as_str(),
            self.month.start,
            self.month.end
        )
        .fetch_one(&mut *self.app.pg.acquire().await?)
        .await?;
        Ok(step(StepName::Issued, when(row.drafts == 0, StepState::Waiting), format!("{} issued, {} drafts.", row.issued, row.drafts)))
    }

    async fn pushed(&self) -> Result<Step, BillingError> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE p.state = 'blocked') AS "blocked!", count(*) FILTER (WHERE p.state = 'queued') AS "queued!",
                      count(*) FILTER (WHERE p.state = 'done') AS "done!",
                      EXISTS (SELECT FROM stripe_settings s WHERE s.workspace_id = $1) AS "configured!"
               FROM stripe_pushes p JOIN invoices i ON i.id = p.invoice_id
               WHERE i.workspace_id = $1 AND i.period_end > $2 AND i.period_end <= $3"#,
            self.ws().as_str(),
            self.month.start,
            self.month.end
        )
        .fetch_one(&mut *self.app.pg.acquire().await?)
        .await?;
        if !row.configured {
            return Ok(step(StepName::Pushed, StepState::Done, "Stripe is not set up; invoices are collected by hand."));
        }
        let state = match (row.blocked, row.queued) {
            (0, 0) => StepState::Done,
            (0, _) => StepState::Waiting,
            _ => StepState::Attention,
        };
        let detail = format!(
            "{} at Stripe with equal totals, {} on their way, {} blocked because something differs.",
            row.done, row.queued, row.blocked
        );
        Ok(step(StepName::Pushed, state, detail))
    }

    async fn paid(&self) -> Result<Step, BillingError> {
        let row = sqlx::query!(
            r#"SELECT count(*) FILTER (WHERE state = 'issued' AND NOT carried) AS "open!", count(*) FILTER (WHERE state = 'issued' AND NOT carried AND due_at < $4) AS "late!",
                      count(*) FILTER (WHERE state = 'paid') AS "paid!"
               FROM invoices WHERE workspace_id = $1 AND period_end > $2 AND period_end <= $3"#,
            self.ws().as_str(),
            self.month.start,
            self.month.end,
            self.now
        )
        .fetch_one(&mut *self.app.pg.acquire().await?)
        .await?;
        let state = when(row.open == 0, if row.late > 0 { StepState::Attention } else { StepState::Waiting });
        Ok(step(StepName::Paid, state, format!("{} paid, {} to be paid, {} of them past their due date.", row.paid, row.open, row.late)))
    }
}

/// Runs a step (again), and answers how the month stands then.
pub async fn run_step(app: &App, ws: &WorkspaceId, month: Period, name: StepName) -> Result<Checklist, BillingError> {
    let workspace = workspace::by_id(&mut *app.pg.acquire().await?, ws).await?.ok_or(BillingError::NotFound("workspace"))?;
    match name {
        StepName::Counted => {
            timelines::sync(app).await?;
            repair::repair(app, ws, month).await?;
        }
        StepName::Late => {
            bill_corrections(app, &workspace, true).await?;
        }
        StepName::Drafted | StepName::Issued => {
            close_period(app, ws, month).await?;
        }
        StepName::Compared => compare(app, ws, month).await?,
        _ => {
            let detail = "This step only shows how things are; its detail says what changes it. Steps that can be run: counted, late, drafted, compared, issued.";
            return Err(BillingError::conflict("step-cannot-run", detail));
        }
    }
    checklist(app, ws, month).await
}

/// Derives every invoice of the month again, and notes what differs.
async fn compare(app: &App, ws: &WorkspaceId, month: Period) -> Result<(), BillingError> {
    timelines::sync(app).await?;
    let ids = sqlx::query_scalar!(
        r#"SELECT id AS "id: InvoiceId" FROM invoices WHERE workspace_id = $1 AND period_end > $2 AND period_end <= $3 AND state NOT IN ('draft', 'void') ORDER BY id"#,
        ws.as_str(),
        month.start,
        month.end
    )
    .fetch_all(&mut *app.pg.acquire().await?)
    .await?;
    let mut different = Vec::new();
    for id in &ids {
        let report = audit::invoice(app, ws, id).await?;
        if !report.equal {
            different.push(report.number.unwrap_or_else(|| id.to_string()));
        }
    }
    let mut detail = format!("{} invoices derived again, {} differ", ids.len(), different.len());
    if !different.is_empty() {
        let shown: Vec<_> = different.iter().take(10).map(String::as_str).collect();
        detail = format!("{detail}: {}{}", shown.join(", "), if different.len() > shown.len() { ", …" } else { "" });
    }
    sqlx::query!(
        "INSERT INTO close_steps (workspace_id, period_start, step, done, detail, ran_at)
         SELECT $1, $2, 'compared', $3, $4, $5::timestamptz + make_interval(secs => w.clock_ahead_s) FROM workspaces w WHERE w.id = $1
         ON CONFLICT (workspace_id, period_start, step) DO UPDATE SET done = $3, detail = $4, ran_at = $5",
        ws.as_str(),
        month.start,
        different.is_empty(),
        detail,
        clock::now()
    )
    .execute(&mut *app.pg.acquire().await?)
    .await?;
    Ok(())
}

/// Closes a month for good. Refused while anything differs or is left to do, payments aside; what each names says the
/// way out. `accept`: steps a person has looked at and takes as they are.
pub async fn hard_close(app: &App, ws: &WorkspaceId, month: Period, accept: &[StepName], actor: &str) -> Result<Checklist, BillingError> {
    let found = checklist(app, ws, month).await?;
    if found.closed == Closed::Hard {
        return Ok(found);
    }
    let open: Vec<_> = found
        .steps
        .iter()
        .filter(|step| step.state != StepState::Done && step.step != StepName::Paid)
        .filter(|step| !(ACCEPTABLE.contains(&step.step) && accept.contains(&step.step)))
        .map(|step| format!("{}: {}", step.step.name(), step.detail))
        .collect();
    if !open.is_empty() {
        return Err(BillingError::conflict(
            "open-differences",
            format!(
                "{} cannot be closed for good: {} Settle these, or accept what may stay (meter_errors, unattributed, compared, late).",
                found.period,
                open.join(" ")
            ),
        ));
    }
    sqlx::query!(
        "INSERT INTO hard_closes (workspace_id, period_start, period_end, closed_at, closed_by)
         SELECT $1, $2, $3, $4::timestamptz + make_interval(secs => w.clock_ahead_s), $5 FROM workspaces w WHERE w.id = $1 ON CONFLICT DO NOTHING",
        ws.as_str(),
        month.start,
        month.end,
        clock::now(),
        actor
    )
    .execute(&mut *app.pg.acquire().await?)
    .await?;
    checklist(app, ws, month).await
}

async fn hard_closed(conn: &mut PgConnection, ws: &WorkspaceId, month: Period) -> Result<bool, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM hard_closes WHERE workspace_id = $1 AND period_start = $2) AS "hard!""#,
        ws.as_str(),
        month.start
    )
    .fetch_one(conn)
    .await?)
}
