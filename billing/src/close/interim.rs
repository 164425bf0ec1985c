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
use super::{issue, schedule, together};
use crate::credit_notes::late::credit_corrections;
use crate::gather::{
    Counter, Counting, Gathered, GatheredLine, Late, Portion, Records, Span, corrections, gather_until, note, with_corrections,
};
use crate::left_out::LeftOut;
use crate::rating::LineKind;
use crate::settings::LateUsage;
use crate::subscriptions::Subscription;
use crate::{BillingError, plans, settings, subscriptions, units};

/// Invoices the usage of every subscription whose plan has a threshold that was reached. Of a consumer with one invoice for all it
/// is the usage of all of them that reaches the lowest of their thresholds: what is owed grows with each. Answers what was issued.
pub async fn bill_thresholds(app: &App, workspace: &Workspace) -> Result<Vec<InvoiceId>, BillingError> {
    let now = workspace.clock.now();
    // Groups of one, or of all that a consumer pays for together.
    let groups = sqlx::query_scalar!(
        r#"SELECT array_agg(DISTINCT o.id) AS "ids!: Vec<SubscriptionId>"
           FROM subscription_phases f JOIN plan_versions v ON v.id = f.plan_version_id JOIN subscriptions s ON s.id = f.subscription_id
           LEFT JOIN consumer_billing b ON b.workspace_id = s.workspace_id AND b.consumer_id = s.consumer_id AND b.consolidated
           CROSS JOIN LATERAL (
               SELECT s.id UNION SELECT p.id FROM subscriptions p
               WHERE b.consolidated AND p.workspace_id = s.workspace_id AND p.consumer_id = s.consumer_id AND p.currency = s.currency) o
           WHERE f.workspace_id = $1 AND v.definition -> 'terms' ? 'threshold' AND NOT f.trial
             AND f.from_at <= $2 AND (f.to_at IS NULL OR f.to_at > $2)
           GROUP BY CASE WHEN b.consolidated THEN s.consumer_id || s.currency ELSE s.id END"#,
        workspace.id.as_str(),
        now
    )
    .fetch_all(&mut *app.pg.acquire().await?)
    .await?;
    let mut issued = Vec::new();
    if groups.is_empty() {
        return Ok(issued);
    }
    let mut until = now;
    if !schedule::runs_ahead(workspace) {
        until = until.min(completeness::of(app, &workspace.id).await?.complete_until);
    }
    timelines::sync(app).await?;
    for ids in groups {
        issued.extend(bill_threshold(app, workspace, &ids, floor_minute(until)).await?);
    }
    Ok(issued)
}

/// A subscription whose period goes on.
struct Running {
    subscription: Subscription,
    span: Span,
    threshold: Option<Money>,
}

async fn bill_threshold(
    app: &App,
    workspace: &Workspace,
    ids: &[SubscriptionId],
    at: DateTime<Utc>,
) -> Result<Option<InvoiceId>, BillingError> {
    let mut transaction = app.pg.begin().await?;
    if take(&mut transaction, ids, false).await?.len() < ids.len() {
        return Ok(None);
    }
    let close_from = settings::of(&mut transaction, &workspace.id).await?.close_from;
    let mut running = Vec::new();
    for id in ids {
        let subscription = subscriptions::lock(&mut transaction, &workspace.id, id).await?;
        let definitions = plans::of(&mut transaction, &workspace.id, subscription.phases.iter().map(|phase| &phase.plan_version)).await?;
        let (period, next) = subscription.next_period(&definitions, workspace.time_zone, close_from)?;
        // Once a period is over its own invoice comes.
        if !period.contains(at) || period.start >= at {
            continue;
        }
        let plan = subscription.at(at).and_then(|phase| definitions.get(&phase.plan_version));
        let currency = subscriptions::currency_of(&subscription)?;
        let threshold = plan.and_then(|plan| plan.terms.threshold.as_ref()?.get(currency).cloned());
        let threshold = threshold.map(|amount| Money::round(&amount, currency)).transpose()?;
        running.push(Running { subscription, span: Span { period, next }, threshold });
    }
    running.sort_by_key(|own| (own.span.period.start, own.subscription.product.clone(), own.subscription.id.clone()));
    let (Some(first), Some(threshold)) = (running.first(), running.iter().filter_map(|own| own.threshold).min_by_key(|own| own.minor))
    else {
        return Ok(None);
    };
    let counter = Counter::new(app, &workspace.id);
    let of: Vec<_> = running.iter().map(|own| (&own.subscription, own.span.period.start)).collect();
    let records = Records::load(&mut transaction, workspace, &counter, &of, true).await?;
    let mut so_far = Vec::new();
    for counting in [Counting::Quick, Counting::Proven] {
        let mut purse = records.purse(&first.subscription.consumer);
        so_far.clear();
        for own in &running {
            so_far.push(gather_until(&counter, &records, workspace, &own.subscription, own.span, at, counting, &mut purse).await?);
        }
        let unbilled = so_far.iter().map(unbilled).collect::<Result<Vec<_>, _>>()?;
        if Money::sum(unbilled, threshold.currency)?.minor < threshold.minor {
            return Ok(None);
        }
    }
    let parts = running.iter().zip(&so_far).filter(|(_, gathered)| !gathered.lines.is_empty()).map(|(own, gathered)| Portion {
        subscription: &own.subscription,
        period: Period { start: own.span.period.start, end: at },
        lines: gathered.lines.len(),
        plans: gathered.plans.clone(),
    });
    let parts: Vec<_> = parts.collect();
    so_far.retain(|gathered| !gathered.lines.is_empty());
    let Some(gathered) = together::merged(so_far) else { return Ok(None) };
    let draft = write(&mut transaction, workspace, "threshold", parts, gathered).await?;
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
        left_out: LeftOut::default(),
    };
    let parts = vec![Portion { subscription: &subscription, period, lines: gathered.lines.len(), plans: gathered.plans.clone() }];
    let draft = write(&mut transaction, workspace, "adjustment", parts, gathered).await?;
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
    kind: &'static str,
    parts: Vec<Portion<'_>>,
    gathered: Gathered,
) -> Result<Option<InvoiceId>, BillingError> {
    let Some((subscription, period)) = parts.first().map(|first| (first.subscription, first.period)) else { return Ok(None) };
    let consumer = consumers::get(conn, &workspace.id, &subscription.consumer).await?.ok_or(BillingError::NotFound("consumer"))?;
    let (ids, starts): (Vec<_>, Vec<_>) = parts.iter().map(|part| (part.subscription.id.to_string(), part.period.start)).unzip();
    let sequence = sqlx::query_scalar!(
        r#"SELECT coalesce(max(p.sequence) + 1, 0) AS "n!" FROM unnest($1::text[], $2::timestamptz[]) AS w (id, start)
           JOIN invoice_parts p ON p.subscription_id = w.id AND p.period_start = w.start AND p.kind = $3"#,
        &ids,
        &starts,
        kind
    )
    .fetch_one(&mut *conn)
    .await?;
    let consolidated = kind == "threshold" && settings::of_consumer(conn, &workspace.id, &consumer.id).await?.consolidated;
    let document = Document { kind, sequence, period };
    draft::write(conn, workspace, Sheet { parts, consolidated, consumer: &consumer, document, gathered }, workspace.clock.now()).await
}

/// A draft that is left by a crash is found and issued by the next close.
async fn finish(app: &App, workspace: &Workspace, draft: Option<InvoiceId>) -> Result<Option<InvoiceId>, BillingError> {
    let Some(draft) = draft else { return Ok(None) };
    let issued = issue::issue(&mut *app.pg.acquire().await?, workspace, &draft, workspace.clock.now()).await?;
    Ok(issued.then_some(draft))
}
