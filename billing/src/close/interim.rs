//! Invoices that no period's end brings about: usage that reached its threshold, and corrections that wait for no
//! further invoice. The period's own invoice, and later corrections, take off what these billed.

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::App;
use farebox_core::ids::{InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::money::Money;
use farebox_core::period::{Period, floor_minute};
use farebox_core::workspace::Workspace;
use farebox_metering::{completeness, consumers, timelines};
use sqlx::PgConnection;

use super::batch::take;
use super::draft::{self, Document, Sheet};
use super::{issue, schedule};
use crate::credit_notes::late::credit_corrections;
use crate::gather::{Counter, Counting, Gathered, GatheredLine, Late, Records, Span, corrections, gather_until, note, with_corrections};
use crate::rating::LineKind;
use crate::settings::LateUsage;
use crate::subscriptions::Subscription;
use crate::{BillingError, plans, settings, subscriptions, units};

/// Invoices the usage of every subscription whose plan has a threshold that was reached. Answers what was issued.
pub async fn bill_thresholds(app: &App, workspace: &Workspace) -> Result<Vec<InvoiceId>, BillingError> {
    let now = workspace.clock.now();
    let ids = sqlx::query_scalar!(
        r#"SELECT f.subscription_id AS "id: SubscriptionId" FROM subscription_phases f JOIN plan_versions v ON v.id = f.plan_version_id
           WHERE f.workspace_id = $1 AND v.definition -> 'terms' ? 'threshold' AND NOT f.trial
             AND f.from_at <= $2 AND (f.to_at IS NULL OR f.to_at > $2)"#,
        workspace.id.as_str(),
        now
    )
    .fetch_all(&mut *app.pg.acquire().await?)
    .await?;
    let mut issued = Vec::new();
    if ids.is_empty() {
        return Ok(issued);
    }
    let mut until = now;
    if !schedule::runs_ahead(workspace) {
        until = until.min(completeness::of(app, &workspace.id).await?.complete_until);
    }
    timelines::sync(app).await?;
    for id in ids {
        issued.extend(bill_threshold(app, workspace, &id, floor_minute(until)).await?);
    }
    Ok(issued)
}

async fn bill_threshold(
    app: &App,
    workspace: &Workspace,
    id: &SubscriptionId,
    at: DateTime<Utc>,
) -> Result<Option<InvoiceId>, BillingError> {
    let mut transaction = app.pg.begin().await?;
    if take(&mut transaction, std::slice::from_ref(id), false).await?.is_empty() {
        return Ok(None);
    }
    let subscription = subscriptions::lock(&mut transaction, &workspace.id, id).await?;
    let definitions = plans::of(&mut transaction, &workspace.id, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    let close_from = settings::of(&mut transaction, &workspace.id).await?.close_from;
    let (period, next) = subscription.next_period(&definitions, workspace.time_zone, close_from)?;
    let threshold =
        subscription.at(at).and_then(|phase| definitions.get(&phase.plan_version)).and_then(|plan| plan.terms.threshold.clone());
    let currency = subscriptions::currency_of(&subscription)?;
    let threshold = threshold.and_then(|amounts| amounts.get(currency).cloned());
    // Once the period is over its own invoice comes.
    let (Some(threshold), true) = (threshold, period.contains(at) && period.start < at) else { return Ok(None) };
    let threshold = Money::round(&threshold, currency)?;
    let span = Span { period, next };
    let counter = Counter::new(app, &workspace.id);
    let records = Records::load(&mut transaction, workspace, &counter, &[(&subscription, period.start)], true).await?;
    let quick = gather_until(&counter, &records, workspace, &subscription, span, at, Counting::Quick).await?;
    if unbilled(&quick)?.minor < threshold.minor {
        return Ok(None);
    }
    let proven = gather_until(&counter, &records, workspace, &subscription, span, at, Counting::Proven).await?;
    if unbilled(&proven)?.minor < threshold.minor {
        return Ok(None);
    }
    let period = Period { start: period.start, end: at };
    let draft = write(&mut transaction, workspace, &subscription, "threshold", period, proven).await?;
    transaction.commit().await?;
    finish(app, workspace, draft).await
}

fn unbilled(gathered: &Gathered) -> Result<Money, BillingError> {
    let used = gathered.lines.iter().filter(|line| matches!(line.line.kind, LineKind::Usage | LineKind::Cap)).map(|line| line.line.amount);
    Ok(Money::sum(used, gathered.currency)?)
}

/// Issues the corrections of closed periods that wait for no further invoice; `all`: also of those that could wait.
/// Answers what was issued.
pub async fn bill_corrections(app: &App, workspace: &Workspace, all: bool) -> Result<Vec<InvoiceId>, BillingError> {
    let mut conn = app.pg.acquire().await?;
    let settings = settings::of(&mut conn, &workspace.id).await?;
    timelines::sync(app).await?;
    let own = all || settings.late_usage != LateUsage::NextInvoice || by_plan(&mut conn, &workspace.id).await?;
    let ids = with_corrections(&Counter::new(app, &workspace.id), &mut conn, workspace, own, i64::from(settings.late_days)).await?;
    drop(conn);
    let mut issued = Vec::new();
    for id in ids {
        issued.extend(bill_correction(app, workspace, &id, settings.late_usage, all).await?);
    }
    Ok(issued)
}

/// Whether any plan has a policy of its own.
async fn by_plan(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<bool, BillingError> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM plan_versions WHERE workspace_id = $1 AND definition -> 'terms' ? 'late_usage') AS "is!""#,
        ws.as_str()
    )
    .fetch_one(conn)
    .await?)
}

/// `policy` is the workspace's; the plan may have another. What may wait for a further invoice waits, unless `all`.
async fn bill_correction(
    app: &App,
    workspace: &Workspace,
    id: &SubscriptionId,
    policy: LateUsage,
    all: bool,
) -> Result<Option<InvoiceId>, BillingError> {
    let mut transaction = app.pg.begin().await?;
    if take(&mut transaction, std::slice::from_ref(id), false).await?.is_empty() {
        return Ok(None);
    }
    let subscription = subscriptions::lock(&mut transaction, &workspace.id, id).await?;
    let definitions = plans::of(&mut transaction, &workspace.id, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
    let open_from = subscription.open_from(None);
    let last = subscription.at(open_from - TimeDelta::minutes(1)).or(subscription.phases.last());
    let terms = last.and_then(|phase| definitions.get(&phase.plan_version)).map(|plan| plan.terms.clone()).unwrap_or_default();
    let policy = terms.late_usage.unwrap_or(policy);
    if policy == LateUsage::NextInvoice && !all && subscription.goes_on_after(open_from) {
        return Ok(None);
    }
    let counter = Counter::new(app, &workspace.id);
    let records = Records::load(&mut transaction, workspace, &counter, &[(&subscription, open_from)], true).await?;
    let (mut counted, mut units, mut purse) = (Vec::new(), Vec::new(), records.purse(&subscription.consumer));
    let late = Late { purse: &mut purse, noted: &mut counted, units: &mut units };
    let lines = corrections(&counter, &records, workspace, &subscription, Counting::Proven, late).await?;
    note(&mut transaction, &workspace.id, &counted).await?;
    let lines = match policy {
        LateUsage::CreditNote => credit_corrections(&mut transaction, workspace, lines).await?.1,
        LateUsage::NextInvoice | LateUsage::OwnInvoice => lines,
    };
    let Some(period) = whole_of(&lines) else {
        // Credit notes say it all, or nothing is to be paid for it.
        units::post(&mut transaction, &workspace.id, None, &units).await?;
        transaction.commit().await?;
        return Ok(None);
    };
    let gathered = Gathered {
        currency: subscriptions::currency_of(&subscription)?,
        terms,
        plans: last.map(|phase| phase.plan.clone()).into_iter().collect(),
        lines,
        counted,
        units,
    };
    let draft = write(&mut transaction, workspace, &subscription, "adjustment", period, gathered).await?;
    transaction.commit().await?;
    finish(app, workspace, draft).await
}

fn whole_of(lines: &[GatheredLine]) -> Option<Period> {
    let start = lines.iter().map(|line| line.line.period.start).min()?;
    let end = lines.iter().map(|line| line.line.period.end).max()?.max(start + TimeDelta::minutes(1));
    Some(Period { start, end })
}

async fn write(
    conn: &mut PgConnection,
    workspace: &Workspace,
    subscription: &Subscription,
    kind: &'static str,
    period: Period,
    gathered: Gathered,
) -> Result<Option<InvoiceId>, BillingError> {
    let consumer = consumers::get(conn, &workspace.id, &subscription.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    let sequence = sqlx::query_scalar!(
        r#"SELECT count(*)::int AS "n!" FROM invoices WHERE subscription_id = $1 AND period_start = $2 AND kind = $3"#,
        subscription.id.as_str(),
        period.start,
        kind
    )
    .fetch_one(&mut *conn)
    .await?;
    let sheet = Sheet::of(subscription, &consumer, Document { kind, sequence, period }, gathered);
    draft::write(conn, workspace, sheet, workspace.clock.now()).await
}

/// A draft that is left by a crash is found and issued by the next close.
async fn finish(app: &App, workspace: &Workspace, draft: Option<InvoiceId>) -> Result<Option<InvoiceId>, BillingError> {
    let Some(draft) = draft else { return Ok(None) };
    let issued = issue::issue(&mut *app.pg.acquire().await?, workspace, &draft, workspace.clock.now()).await?;
    Ok(issued.then_some(draft))
}
