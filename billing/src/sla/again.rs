//! A credit derived again from raw events: every measured meter counted anew, and judged by the promise that was sealed.

use farebox_core::App;
use farebox_core::ids::WorkspaceId;
use farebox_core::money::Money;
use farebox_metering::proof;

use super::{Evidence, judge};
use crate::BillingError;
use crate::rating::RatingError;

/// What is different now, each as a sentence; nothing where the line comes out as it was. `amount`: the line's.
pub(crate) async fn audit(app: &App, ws: &WorkspaceId, sealed: &serde_json::Value, amount: Money) -> Result<Vec<String>, BillingError> {
    let evidence: Evidence = serde_json::from_value(sealed.clone()).map_err(|e| BillingError::unreadable("sealed evidence", e))?;
    let (mut differences, mut values) = (Vec::new(), Vec::new());
    for then in &evidence.measured {
        let now = proof::of(app, ws, &then.subscription, &then.meter, then.period).await?;
        if now.value != then.value {
            differences.push(format!("`{}` is {} now and was {}", then.meter, now.value.normalized(), then.value.normalized()));
        } else if now.hash != then.hash {
            differences.push(format!("`{}` is the same, but not of the same events", then.meter));
        }
        values.push(now.value);
    }
    let share = judge::broken(&evidence.promise, &values).map(|credit| credit.share.0.clone()).unwrap_or_default();
    // What is left to give back may be less, after other promises.
    let most = Money::round(&(&evidence.cost * share), amount.currency).map_err(RatingError::from)?;
    if -amount.minor > most.minor {
        differences.push(format!("at most {most} would be given back now, and {} was", Money::new(-amount.minor, amount.currency)));
    }
    Ok(differences)
}
