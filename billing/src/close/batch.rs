//! The next period of many subscriptions at once, in one transaction: taken, read, counted, rated and drafted; and issued in a
//! second. Whatever dies in between, the next run finds the drafts, or starts over.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use farebox_core::App;
use farebox_core::ids::{ConsumerId, InvoiceId, SubscriptionId};
use farebox_core::money::Money;
use farebox_core::period::Period;
use farebox_core::workspace::Workspace;
use farebox_metering::consumers::{self, Consumer};
use sqlx::{PgConnection, Postgres, Transaction};

use super::draft::{self, Document, Sheet};
use super::{issue, together};
use crate::gather::{self, Counted, Counter, Counting, Gathered, Portion, Records, Span, gather};
use crate::rating::{LineKind, RatingError};
use crate::subscriptions::{self, Plans, Subscription};
use crate::{BillingError, faults, included, plans, settings, units};

/// What became of a subscription's next period.
#[derive(Debug)]
pub enum Next {
    /// `more`: a further period may have ended by then.
    Issued { invoice: InvoiceId, more: bool },
    /// There was nothing to invoice in it, or someone else issued it in the meantime.
    Nothing { more: bool },
    /// Another worker has it in hand.
    Busy,
    /// No period is left that ended by then.
    Over,
}

pub type Results = Vec<(SubscriptionId, Result<Next, BillingError>)>;

/// One run over a workspace's subscriptions.
pub struct Run {
    pub app: App,
    pub workspace: Workspace,
    pub counter: Counter,
    /// What ended by then is closed.
    pub until: DateTime<Utc>,
}

impl Run {
    pub fn new(app: &App, workspace: &Workspace, until: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self { app: app.clone(), workspace: workspace.clone(), counter: Counter::new(app, &workspace.id), until })
    }

    /// At most one of a consumer, since an invoice uses up what its consumer has. `wait`: what another worker has in hand is
    /// waited for. One whose period cannot be priced does not hold up the others.
    pub async fn close_next(&self, ids: &[SubscriptionId], wait: bool) -> Result<Results, BillingError> {
        let now = self.workspace.clock.now();
        let (drafted, busy) = self.draft_next(ids, wait).await?;
        let to_issue: Vec<_> = drafted
            .iter()
            .filter_map(|(_, result)| match result {
                Ok(Drafted::Draft { draft, .. }) => Some(draft.clone()),
                _ => None,
            })
            .collect();
        if !to_issue.is_empty() {
            faults::point("close.drafted");
        }
        let issued = issue::issue_all(&mut *self.app.pg.acquire().await?, &self.workspace, &to_issue, now).await?;
        if !issued.is_empty() {
            faults::point("close.issued");
        }
        metrics::counter!("farebox_billing_invoices_issued_total").increment(issued.len() as u64);
        let issued: HashSet<_> = issued.into_iter().collect();
        let mut results: Results = drafted
            .into_iter()
            .map(|(id, result)| {
                let next = result.map(|drafted| match drafted {
                    Drafted::Draft { draft, more } if issued.contains(&draft) => Next::Issued { invoice: draft, more },
                    Drafted::Draft { more, .. } | Drafted::Nothing { more } => Next::Nothing { more },
                    Drafted::Over => Next::Over,
                });
                (id, next)
            })
            .collect();
        results.extend(busy.into_iter().map(|id| (id, Ok(Next::Busy))));
        Ok(results)
    }

    /// The drafts, those that a crash left among them; and whom another worker has in hand.
    pub async fn draft_next(&self, ids: &[SubscriptionId], wait: bool) -> Result<(Vec<DraftResult>, Vec<SubscriptionId>), BillingError> {
        let mut transaction = begin(&self.app).await?;
        let groups = together::with(&mut transaction, &self.workspace.id, ids, self.until).await?;
        let mut mine: HashSet<_> = take(&mut transaction, &all_of(ids, &groups), wait).await?.into_iter().collect();
        // All of those that are invoiced together, or none.
        for group in groups.values() {
            if !group.iter().all(|id| mine.contains(id)) {
                mine.retain(|id| !group.contains(id));
            }
        }
        let mut sorted: Vec<_> = mine.iter().cloned().collect();
        sorted.sort();
        let left = drafts(&mut transaction, &sorted, self.until).await?;
        // A draft that was left comes first; the others of its group have their turn after it.
        let held = |id: &SubscriptionId| groups.values().find(|group| group.contains(id))?.iter().find_map(|own| left.get(own).cloned());
        let fresh: Vec<_> = sorted.iter().filter(|id| !left.contains_key(*id) && held(id).is_none()).cloned().collect();
        let mut drafted = self.draft(&mut transaction, &fresh, self.workspace.clock.now()).await?;
        transaction.commit().await?;
        let found = sorted.iter().filter_map(|id| Some((id.clone(), left.get(id).cloned().or_else(|| held(id))?)));
        drafted.extend(found.map(|(id, draft)| (id, Ok(Drafted::Draft { draft, more: true }))));
        drafted.retain(|(id, _)| ids.contains(id));
        Ok((drafted, ids.iter().filter(|id| !mine.contains(id)).cloned().collect()))
    }

    /// What the next periods would come to, with nothing stored.
    pub async fn rehearse_next(&self, ids: &[SubscriptionId]) -> Result<(Vec<DraftResult>, Vec<Money>), BillingError> {
        // Never committed.
        let mut transaction = begin(&self.app).await?;
        let groups = together::with(&mut transaction, &self.workspace.id, ids, self.until).await?;
        let known = Known::load(&mut transaction, &self.workspace, &all_of(ids, &groups)).await?;
        let Rated { sheets, mut results, .. } = self.rate(&mut transaction, &known, false).await?;
        let (written, totals) = draft::rehearse_all(&mut transaction, &self.workspace, sheets).await?;
        transaction.rollback().await?;
        results.extend(written.into_iter().filter_map(|(id, result)| Some((id, Err(result.err()?)))));
        Ok((results, totals))
    }

    /// Drafts the next periods, and moves the subscriptions past them.
    async fn draft(&self, conn: &mut PgConnection, ids: &[SubscriptionId], now: DateTime<Utc>) -> Result<Vec<DraftResult>, BillingError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let known = Known::load(conn, &self.workspace, ids).await?;
        let Rated { sheets, mut counted, mut moved, waiting, mut results } = self.rate(conn, &known, true).await?;
        faults::point("close.rated");
        let mut written: HashMap<_, _> = draft::write_all(conn, &self.workspace, sheets, now).await?.into_iter().collect();
        moved.retain(|(subscription, _)| !matches!(written.get(&subscription.id), Some(Err(_))));
        let kept: HashSet<_> = moved.iter().map(|(subscription, _)| subscription.id.clone()).collect();
        counted.retain(|counted| kept.contains(&counted.subscription));
        gather::note(conn, &self.workspace.id, &counted).await?;
        advance(conn, &moved).await?;
        for (subscription, after) in moved {
            // Where several are invoiced together one stands for all, so there may be more of the others'.
            let more = known.consolidated.contains(&subscription.consumer) || after.closes_at.is_some_and(|at| at <= self.until);
            let drafted = match written.remove(&subscription.id) {
                Some(Ok(Some(draft))) => Drafted::Draft { draft, more },
                _ => Drafted::Nothing { more },
            };
            results.push((subscription.id.clone(), Ok(drafted)));
        }
        results.extend(written.into_iter().filter_map(|(id, result)| Some((id, Err(result.err()?)))));
        let kept: HashMap<_, _> =
            results.iter().filter_map(|(id, result)| Some((known.payer(id)?, result.as_ref().err()?.to_string()))).collect();
        let turns = waiting.into_iter().map(|subscription| match kept.get(&subscription.consumer) {
            None => (subscription.id.clone(), Ok(Drafted::Nothing { more: true })),
            Some(why) => (subscription.id.clone(), Err(together::waits(why))),
        });
        let turns: Vec<_> = turns.collect();
        results.extend(turns);
        Ok(results)
    }

    /// Reads, counts and prices the next period of each that ended by then.
    async fn rate<'k>(&self, conn: &mut PgConnection, known: &'k Known, lock: bool) -> Result<Rated<'k>, BillingError> {
        let (mut results, mut due, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for subscription in &known.subscriptions {
            if included::any(&known.plans) {
                // A clock that jumped may have left out the loop.
                included::settle(conn, &self.workspace, subscription, &known.plans_of(subscription)).await?;
            }
            match known.due(subscription, &self.workspace, self.until) {
                Ok(Some(span)) => due.push((subscription, span)),
                Ok(None) => over.push(subscription),
                Err(error) => results.push((subscription.id.clone(), Err(error.into()))),
            }
        }
        let (groups, mut waiting) = together::groups(due, &known.consolidated);
        for subscription in over {
            let stands_for_others = groups.iter().flatten().any(|(other, _)| other.consumer == subscription.consumer);
            if stands_for_others && known.consolidated.contains(&subscription.consumer) {
                waiting.push(subscription);
            } else {
                results.push((subscription.id.clone(), Ok(Drafted::Over)));
            }
        }
        let of: Vec<_> = groups.iter().flatten().map(|(subscription, span)| (*subscription, span.period.start)).collect();
        let records = Records::load(conn, &self.workspace, &self.counter, &of, lock).await?;
        let (mut sheets, mut counted, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let Some((first, _)) = group.first() else { continue };
            let mut purse = records.purse(&first.consumer);
            let (mut parts, mut all, mut after, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
            for &(subscription, span) in &group {
                let gathered = gather(&self.counter, &records, &self.workspace, subscription, span, Counting::Proven, &mut purse).await;
                match gathered.and_then(|gathered| Ok((known.after(subscription, span.period, &gathered, &self.workspace)?, gathered))) {
                    Ok((own, gathered)) => {
                        after.push((subscription, own));
                        let (lines, plans) = (gathered.lines.len(), gathered.plans.clone());
                        parts.push(Portion { subscription, period: span.period, lines, plans });
                        all.push(gathered);
                    }
                    Err(error @ BillingError::Rating(_)) => {
                        failed = Some((subscription.id.clone(), error));
                        break;
                    }
                    // What reads or counts fails for all alike.
                    Err(error) => return Err(error),
                }
            }
            if let Some((id, error)) = failed {
                let others = group.iter().map(|(own, _)| own.id.clone()).filter(|own| *own != id).collect();
                results.extend(together::refused(id, others, error));
                continue;
            }
            let Some(mut gathered) = together::merged(all) else { continue };
            counted.append(&mut gathered.counted);
            moved.append(&mut after);
            if gathered.lines.is_empty() {
                units::post(conn, &self.workspace.id, None, &gathered.units).await?;
                continue;
            }
            let (consumer, period) = (known.consumer(parts[0].subscription)?, parts[0].period);
            let consolidated = known.consolidated.contains(&consumer.id);
            let sequence =
                if consolidated { together::sequence(conn, &self.workspace.id, parts[0].subscription, period.end).await? } else { 0 };
            let document = Document { kind: "regular", sequence, period };
            sheets.push(Sheet { parts, consolidated, consumer, document, gathered });
        }
        Ok(Rated { sheets, counted, moved, waiting, results })
    }
}

/// A transaction whose questions are all for keys, and go by index. The planner is not asked: it knows nothing yet of tables that
/// fill while a close runs, and where it reads one whole every batch costs more than the one before.
async fn begin(app: &App) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = app.pg.begin().await?;
    let by_index = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
                    SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off";
    sqlx::raw_sql(by_index).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// Priced, and not yet stored.
struct Rated<'k> {
    sheets: Vec<Sheet<'k>>,
    counted: Vec<Counted>,
    moved: Vec<(&'k Subscription, After)>,
    /// Those whose turn comes after others of their consumer.
    waiting: Vec<&'k Subscription>,
    /// Of those that need no draft, or cannot be priced.
    results: Vec<DraftResult>,
}

pub type DraftResult = (SubscriptionId, Result<Drafted, BillingError>);

#[derive(Debug)]
pub enum Drafted {
    Draft { draft: InvoiceId, more: bool },
    Nothing { more: bool },
    Over,
}

/// One worker at a time for a subscription, until the transaction ends: those that are ours.
pub(super) async fn take(conn: &mut PgConnection, ids: &[SubscriptionId], wait: bool) -> Result<Vec<SubscriptionId>, BillingError> {
    let wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
    if wait {
        sqlx::query!(
            "SELECT pg_advisory_xact_lock(hashtextextended('close ' || id, 0)) FROM unnest($1::text[]) AS w (id) ORDER BY id",
            &wanted
        )
        .fetch_all(conn)
        .await?;
        return Ok(ids.to_vec());
    }
    Ok(sqlx::query_scalar!(
        r#"SELECT id AS "id!: SubscriptionId" FROM unnest($1::text[]) AS w (id) WHERE pg_try_advisory_xact_lock(hashtextextended('close ' || id, 0))"#,
        &wanted
    )
    .fetch_all(conn)
    .await?)
}

fn all_of(ids: &[SubscriptionId], groups: &HashMap<ConsumerId, Vec<SubscriptionId>>) -> Vec<SubscriptionId> {
    let all: BTreeSet<_> = ids.iter().chain(groups.values().flatten()).cloned().collect();
    all.into_iter().collect()
}

/// Drafts that a crash left.
async fn drafts(
    conn: &mut PgConnection,
    ids: &[SubscriptionId],
    until: DateTime<Utc>,
) -> Result<HashMap<SubscriptionId, InvoiceId>, BillingError> {
    let wanted: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (p.subscription_id) p.subscription_id AS "subscription: SubscriptionId", i.id AS "id: InvoiceId"
           FROM invoice_parts p JOIN invoices i ON i.id = p.invoice_id
           WHERE p.subscription_id = ANY($1) AND i.state = 'draft' AND i.period_end <= $2 ORDER BY p.subscription_id, i.id"#,
        &wanted,
        until
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.subscription, row.id)).collect())
}

/// What says which period is next.
struct Known {
    subscriptions: Vec<Subscription>,
    consumers: HashMap<ConsumerId, Consumer>,
    plans: Plans,
    billed_until: HashMap<SubscriptionId, DateTime<Utc>>,
    close_from: Option<DateTime<Utc>>,
    /// Consumers with one invoice for all.
    consolidated: HashSet<ConsumerId>,
}

/// A subscription after its period.
struct After {
    closed_until: DateTime<Utc>,
    closes_at: Option<DateTime<Utc>>,
}

impl Known {
    async fn load(conn: &mut PgConnection, workspace: &Workspace, ids: &[SubscriptionId]) -> Result<Self, BillingError> {
        let (ws, ids): (_, Vec<_>) = (&workspace.id, ids.iter().map(ToString::to_string).collect());
        let subscriptions = subscriptions::lock_all(conn, ws, &ids).await?;
        let payers: Vec<_> = subscriptions.iter().map(|subscription| subscription.consumer.to_string()).collect();
        let phases = subscriptions.iter().flat_map(|subscription| &subscription.phases);
        let versions: BTreeSet<_> = phases.map(|phase| phase.plan_version.clone()).collect();
        let plans = plans::of(conn, ws, versions.iter()).await?;
        let billing = settings::of_consumers(conn, ws, &payers).await?;
        Ok(Self {
            consolidated: billing.into_iter().filter(|(_, billing)| billing.consolidated).map(|(consumer, _)| consumer).collect(),
            consumers: consumers::by_ids(conn, ws, &payers).await?.into_iter().map(|consumer| (consumer.id.clone(), consumer)).collect(),
            billed_until: subscriptions::billed_until(conn, &ids).await?,
            close_from: settings::of(conn, ws).await?.close_from,
            plans,
            subscriptions,
        })
    }

    fn payer(&self, id: &SubscriptionId) -> Option<ConsumerId> {
        self.subscriptions.iter().find(|own| own.id == *id).map(|own| own.consumer.clone())
    }

    fn plans_of(&self, subscription: &Subscription) -> Plans {
        let own = subscription.phases.iter().filter_map(|phase| self.plans.get_key_value(&phase.plan_version));
        own.map(|(version, plan)| (version.clone(), plan.clone())).collect()
    }

    fn consumer(&self, subscription: &Subscription) -> Result<&Consumer, BillingError> {
        self.consumers.get(&subscription.consumer).ok_or(BillingError::NotFound("consumer"))
    }

    /// The next period, where one ended by then.
    fn due(&self, subscription: &Subscription, workspace: &Workspace, until: DateTime<Utc>) -> Result<Option<Span>, RatingError> {
        let billed = self.billed_until.get(&subscription.id).copied();
        let closes_at = subscription.closes_at(&self.plans, workspace.time_zone, self.close_from, billed)?;
        if closes_at.is_none_or(|closes_at| closes_at > until) {
            return Ok(None);
        }
        let (period, next) = subscription.next_period(&self.plans, workspace.time_zone, self.close_from)?;
        Ok(Some(Span { period, next }))
    }

    fn after(&self, subscription: &Subscription, period: Period, gathered: &Gathered, workspace: &Workspace) -> Result<After, RatingError> {
        let zero = farebox_core::money::BigDecimal::from(0);
        let fees = gathered.lines.iter().filter(|line| line.line.kind == LineKind::Fee && line.line.quantity > zero);
        let billed = fees.map(|line| line.line.period.end).chain(self.billed_until.get(&subscription.id).copied()).max();
        let closed = Subscription { closed_until: Some(period.end), ..subscription.clone() };
        let closes_at = closed.closes_at(&self.plans, workspace.time_zone, self.close_from, billed)?;
        Ok(After { closed_until: period.end, closes_at })
    }
}

async fn advance(conn: &mut PgConnection, moved: &[(&Subscription, After)]) -> Result<(), BillingError> {
    let ids: Vec<_> = moved.iter().map(|(subscription, _)| subscription.id.to_string()).collect();
    let closed: Vec<_> = moved.iter().map(|(_, after)| after.closed_until).collect();
    let closes: Vec<_> = moved.iter().map(|(_, after)| after.closes_at).collect();
    sqlx::query!(
        "UPDATE subscriptions s SET closed_until = a.closed_until, closes_at = a.closes_at
         FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS a (id, closed_until, closes_at) WHERE s.id = a.id",
        &ids,
        &closed,
        &closes as &[Option<DateTime<Utc>>]
    )
    .execute(conn)
    .await?;
    Ok(())
}
