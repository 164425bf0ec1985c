//! Coupons: something off a subscription's invoices, for some periods or for ever, from some prices or all.

use std::collections::HashMap;

use bigdecimal::BigDecimal;
use chrono::{DateTime, Utc};
use farebox_core::clock;
use farebox_core::ids::{CouponId, InvoiceId, SubscriptionId, WorkspaceId};
use farebox_core::money::{Currency, Money};
use serde::Serialize;
use sqlx::PgConnection;

use crate::BillingError;
use crate::rating::invoice::{Discount, Off};
use crate::rating::plan::{Amounts, Decimal};
use crate::subscriptions::{self, Subscription};

#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Coupon {
    pub id: CouponId,
    /// As it is typed in; one of its kind in the workspace.
    pub code: String,
    /// As it stands on invoices.
    pub name: String,
    /// 0.25 is 25 %.
    #[schema(value_type = Option<String>)]
    pub share: Option<Decimal>,
    /// By currency.
    #[schema(value_type = Object)]
    pub amounts: Option<Amounts>,
    /// Invoices' periods it holds for; for ever when none.
    pub periods: Option<i32>,
    /// Only from prices of these names.
    pub prices: Vec<String>,
    /// Only on these plans.
    pub plans: Vec<String>,
    pub redeem_by: Option<DateTime<Utc>>,
    pub max_redemptions: Option<i32>,
    pub redeemed: i64,
    pub archived: bool,
}

/// A coupon to be made; checked by [`create`] and [`put`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewCoupon {
    pub code: String,
    pub name: String,
    pub share: Option<BigDecimal>,
    pub amounts: Option<Amounts>,
    pub periods: Option<i32>,
    pub prices: Vec<String>,
    pub plans: Vec<String>,
    pub redeem_by: Option<DateTime<Utc>>,
    pub max_redemptions: Option<i32>,
}

impl NewCoupon {
    /// As it stands on invoices: the code where it has no name.
    fn shown(&self) -> String {
        if self.name.trim().is_empty() { self.code.clone() } else { self.name.clone() }
    }
}

/// Whether a coupon to be made is right in itself.
pub(crate) fn check(new: &NewCoupon) -> Result<(), BillingError> {
    let (zero, one) = (BigDecimal::from(0), BigDecimal::from(1));
    match (&new.share, &new.amounts) {
        (Some(share), None) if *share > zero && *share <= one => {}
        (Some(_), None) => return Err(BillingError::invalid("/share", "is a fraction above 0, at most 1: write 25 % as \"0.25\"")),
        (None, Some(amounts)) if amounts.0.values().all(|amount| amount.0 > zero) && !amounts.0.is_empty() => {
            for (code, amount) in &amounts.0 {
                let currency = code.parse::<Currency>().map_err(|e| BillingError::invalid("/amounts", e.to_string()))?;
                Money::exact(&amount.0, currency).map_err(|e| BillingError::invalid("/amounts", e.to_string()))?;
            }
        }
        (None, Some(_)) => return Err(BillingError::invalid("/amounts", "must be above 0, in at least one currency")),
        _ => return Err(BillingError::invalid("/share", "a coupon takes off either a `share` or `amounts`")),
    }
    if new.code.trim().is_empty() || new.code.len() > 64 {
        return Err(BillingError::invalid("/code", "has 1 to 64 characters"));
    }
    if new.periods.is_some_and(|periods| periods < 1) {
        return Err(BillingError::invalid("/periods", "is 1 for once, more for as many periods; leave it out for ever"));
    }
    if new.max_redemptions.is_some_and(|most| most < 1) {
        return Err(BillingError::invalid("/max_redemptions", "is at least 1; leave it out for any number"));
    }
    Ok(())
}

pub async fn create(conn: &mut PgConnection, ws: &WorkspaceId, new: NewCoupon) -> Result<Coupon, BillingError> {
    check(&new)?;
    let id = CouponId::new();
    let name = new.shown();
    let made = sqlx::query!(
        "INSERT INTO coupons (id, workspace_id, code, name, share, amounts, periods, prices, plans, redeem_by, max_redemptions, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT ON CONSTRAINT coupons_code_once DO NOTHING",
        id.as_str(),
        ws.as_str(),
        new.code,
        name,
        new.share,
        stored(new.amounts.as_ref())?,
        new.periods,
        &new.prices,
        &new.plans,
        new.redeem_by,
        new.max_redemptions,
        clock::now()
    )
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Err(BillingError::conflict(
            "coupon-code-taken",
            format!("There is a coupon with the code `{}`. Choose another.", new.code),
        ));
    }
    list(conn, ws).await?.into_iter().find(|coupon| coupon.id == id).ok_or(BillingError::NotFound("coupon"))
}

fn stored(amounts: Option<&Amounts>) -> Result<Option<serde_json::Value>, BillingError> {
    amounts.map(serde_json::to_value).transpose().map_err(|e| BillingError::unreadable("a coupon", e))
}

/// What [`put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Created,
    Changed,
    Unchanged,
}

/// The coupon of this code as wanted, and retired or given out (again). What it takes off from what, and for how long, was
/// promised to whoever redeemed it, and does not change any more.
pub async fn put(conn: &mut PgConnection, ws: &WorkspaceId, wanted: &NewCoupon, retired: bool) -> Result<Put, BillingError> {
    check(wanted)?;
    // As for a redemption: one that comes at the same time sees what was changed, or is seen.
    sqlx::query!("SELECT id FROM coupons WHERE workspace_id = $1 AND code = $2 FOR UPDATE", ws.as_str(), wanted.code)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(before) = list(conn, ws).await?.into_iter().find(|coupon| coupon.code == wanted.code) else {
        let made = create(conn, ws, wanted.clone()).await?;
        if retired {
            archive(conn, ws, &made.id).await?;
        }
        return Ok(Put::Created);
    };
    let same = (before.share.as_ref().map(|share| &share.0), &before.amounts, before.periods, &before.prices, &before.plans)
        == (wanted.share.as_ref(), &wanted.amounts, wanted.periods, &wanted.prices, &wanted.plans);
    if !same && before.redeemed > 0 {
        let detail = format!(
            "The coupon `{}` was redeemed, so what it takes off never changes. Retire it, and make the change under another code.",
            wanted.code
        );
        return Err(BillingError::conflict("coupon-redeemed", detail));
    }
    let as_before = (&before.name, before.redeem_by, before.max_redemptions, before.archived)
        == (&wanted.shown(), wanted.redeem_by, wanted.max_redemptions, retired);
    if same && as_before {
        return Ok(Put::Unchanged);
    }
    sqlx::query!(
        "UPDATE coupons SET name = $3, share = $4, amounts = $5, periods = $6, prices = $7, plans = $8, redeem_by = $9, max_redemptions = $10,
                            archived_at = CASE WHEN $11 THEN coalesce(archived_at, $12::timestamptz) END
         WHERE workspace_id = $1 AND id = $2",
        ws.as_str(),
        before.id.as_str(),
        wanted.shown(),
        wanted.share,
        stored(wanted.amounts.as_ref())?,
        wanted.periods,
        &wanted.prices,
        &wanted.plans,
        wanted.redeem_by,
        wanted.max_redemptions,
        retired,
        clock::now()
    )
    .execute(conn)
    .await?;
    Ok(Put::Changed)
}

/// By code, those that are archived too.
pub async fn list(conn: &mut PgConnection, ws: &WorkspaceId) -> Result<Vec<Coupon>, BillingError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id: CouponId", code, name, share, amounts, periods, prices, plans, redeem_by, max_redemptions,
                  archived_at IS NOT NULL AS "archived!",
                  (SELECT count(*) FROM subscription_coupons s WHERE s.coupon_id = c.id) AS "redeemed!"
           FROM coupons c WHERE workspace_id = $1 ORDER BY code"#,
        ws.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Coupon {
                id: row.id,
                code: row.code,
                name: row.name,
                share: row.share.map(Decimal),
                amounts: row.amounts.map(serde_json::from_value).transpose().map_err(|e| BillingError::unreadable("a coupon", e))?,
                periods: row.periods,
                prices: row.prices,
                plans: row.plans,
                redeem_by: row.redeem_by,
                max_redemptions: row.max_redemptions,
                redeemed: row.redeemed,
                archived: row.archived,
            })
        })
        .collect()
}

/// Nobody can redeem it any more; where it was redeemed it goes on.
pub async fn archive(conn: &mut PgConnection, ws: &WorkspaceId, id: &CouponId) -> Result<(), BillingError> {
    let done = sqlx::query!(
        "UPDATE coupons SET archived_at = coalesce(archived_at, $3) WHERE workspace_id = $1 AND id = $2",
        ws.as_str(),
        id.as_str(),
        clock::now()
    )
    .execute(conn)
    .await?;
    if done.rows_affected() == 0 { Err(BillingError::NotFound("coupon")) } else { Ok(()) }
}

/// Redeems a code for a subscription: it holds from its next invoice on.
pub async fn redeem(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Coupon, BillingError> {
    // Redemptions of a coupon follow each other, so that a limited one is not given out too often.
    sqlx::query!("SELECT id FROM coupons WHERE workspace_id = $1 AND code = $2 FOR UPDATE", ws.as_str(), code)
        .fetch_optional(&mut *conn)
        .await?;
    let coupon = list(conn, ws).await?.into_iter().find(|coupon| coupon.code == code).ok_or(BillingError::NotFound("coupon"))?;
    let subscription = subscriptions::lock(conn, ws, id).await?;
    let refuse = |detail: String| Err(BillingError::conflict("coupon-refused", detail));
    if coupon.archived {
        return refuse(format!("The coupon `{code}` is no longer given out."));
    }
    if coupon.redeem_by.is_some_and(|by| now >= by) {
        return refuse(format!("The coupon `{code}` could be redeemed until {} only.", coupon.redeem_by.unwrap_or(now)));
    }
    if coupon.max_redemptions.is_some_and(|most| coupon.redeemed >= i64::from(most)) {
        return refuse(format!("The coupon `{code}` has been redeemed as often as it may be."));
    }
    if let Some(amounts) = &coupon.amounts
        && !amounts.0.contains_key(&subscription.currency)
    {
        return refuse(format!("The coupon `{code}` has no amount in {}, the subscription's currency.", subscription.currency));
    }
    if !coupon.plans.is_empty() && !subscription.phases.iter().any(|phase| coupon.plans.contains(&phase.plan)) {
        return refuse(format!("The coupon `{code}` is for the plans {} only.", coupon.plans.join(", ")));
    }
    sqlx::query!(
        "INSERT INTO subscription_coupons (workspace_id, subscription_id, coupon_id, redeemed_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT subscription_coupons_once DO UPDATE SET removed_at = NULL",
        ws.as_str(),
        id.as_str(),
        coupon.id.as_str(),
        now
    )
    .execute(conn)
    .await?;
    Ok(coupon)
}

/// Takes a coupon off a subscription, from its next invoice on.
pub async fn remove(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    id: &SubscriptionId,
    code: &str,
    now: DateTime<Utc>,
) -> Result<(), BillingError> {
    let done = sqlx::query!(
        "UPDATE subscription_coupons s SET removed_at = coalesce(removed_at, $4) FROM coupons c
         WHERE c.id = s.coupon_id AND s.workspace_id = $1 AND s.subscription_id = $2 AND c.code = $3",
        ws.as_str(),
        id.as_str(),
        code,
        now
    )
    .execute(conn)
    .await?;
    if done.rows_affected() == 0 { Err(BillingError::NotFound("coupon on this subscription")) } else { Ok(()) }
}

/// A coupon that holds for a subscription's invoice.
#[derive(Debug, Clone)]
pub(crate) struct Redeemed {
    discount: Discount,
    plans: Vec<String>,
}

impl Redeemed {
    /// What is off, where the coupon is for the plans in force and has an amount in the currency.
    pub fn discount(&self, plans: &[String], currency: &str) -> Option<Discount> {
        let meant = self.plans.is_empty() || plans.iter().any(|plan| self.plans.contains(plan));
        let priced = match &self.discount.off {
            Off::Share(_) => true,
            Off::Fixed(amounts) => amounts.0.contains_key(currency),
        };
        (meant && priced).then(|| self.discount.clone())
    }
}

/// Of each subscription, what is off the invoice of a period that begins at the instant beside it, in the order of
/// redemption. A coupon for some periods holds as long as it was on fewer of them; the same period's further invoices have it
/// too.
pub(crate) async fn redeemed(
    conn: &mut PgConnection,
    of: &[(&Subscription, DateTime<Utc>)],
) -> Result<HashMap<SubscriptionId, Vec<Redeemed>>, BillingError> {
    let (ids, starts): (Vec<_>, Vec<_>) = of.iter().map(|(subscription, start)| (subscription.id.to_string(), *start)).unzip();
    let rows = sqlx::query!(
        r#"SELECT s.subscription_id AS "subscription: SubscriptionId", c.id, c.name, c.share, c.amounts, c.prices, c.plans
           FROM unnest($1::text[], $2::timestamptz[]) AS w (subscription_id, start)
           JOIN subscription_coupons s ON s.subscription_id = w.subscription_id JOIN coupons c ON c.id = s.coupon_id
           WHERE s.removed_at IS NULL
             AND (c.periods IS NULL OR c.periods > (
                 SELECT count(DISTINCT p.period_start) FROM invoice_discounts d JOIN invoices i ON i.id = d.invoice_id
                 JOIN invoice_parts p ON p.invoice_id = i.id AND p.subscription_id = d.subscription_id
                 WHERE d.coupon_id = c.id AND d.subscription_id = s.subscription_id AND p.period_start <> w.start AND i.state <> 'void'))
           ORDER BY s.id"#,
        &ids,
        &starts
    )
    .fetch_all(conn)
    .await?;
    let mut found: HashMap<SubscriptionId, Vec<Redeemed>> = HashMap::new();
    for row in rows {
        let off = match (row.share, row.amounts) {
            (Some(share), _) => Off::Share(Decimal(share)),
            (None, Some(amounts)) => Off::Fixed(serde_json::from_value(amounts).map_err(|e| BillingError::unreadable("a coupon", e))?),
            (None, None) => continue,
        };
        // Of the coupon and the subscription: others on the same invoice may have it too.
        let id = format!("{} {}", row.id, row.subscription);
        let discount = Discount { id, name: row.name, off, prices: row.prices, lines: None };
        found.entry(row.subscription).or_default().push(Redeemed { discount, plans: row.plans });
    }
    Ok(found)
}

/// Notes what each took off; a coupon that took nothing off used up its period all the same.
pub(crate) async fn record(
    conn: &mut PgConnection,
    ws: &WorkspaceId,
    invoice: &InvoiceId,
    taken: &[(String, Money)],
) -> Result<(), BillingError> {
    for (id, amount) in taken {
        let (coupon, subscription) = id.split_once(' ').ok_or_else(|| BillingError::unreadable("a discount", id))?;
        sqlx::query!(
            "INSERT INTO invoice_discounts (invoice_id, coupon_id, workspace_id, amount_minor, subscription_id) VALUES ($1, $2, $3, $4, $5)",
            invoice.as_str(),
            coupon,
            ws.as_str(),
            amount.minor,
            subscription
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
