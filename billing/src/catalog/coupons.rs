//! Coupons of the file, read with the line of what is wrong.

use farebox_core::money::{Currency, decimal};

use super::check::instant;
use super::errors::Errors;
use super::plan::Reader;
use super::raw::{RawCatalog, RawCoupon};
use crate::BillingError;
use crate::coupons::{self, NewCoupon};

#[derive(Debug, Clone, PartialEq)]
pub struct CouponEntry {
    pub coupon: NewCoupon,
    /// Nobody can redeem it any more; where it was redeemed it goes on.
    pub retired: bool,
}

/// Amounts without a currency are in `currency`.
pub fn read(raw: &RawCatalog, currency: Currency, errors: &mut Errors) -> Vec<CouponEntry> {
    raw.coupons.iter().enumerate().filter_map(|(n, coupon)| one(coupon, currency, &format!("coupons[{n}]"), errors)).collect()
}

fn one(raw: &RawCoupon, currency: Currency, path: &str, errors: &mut Errors) -> Option<CouponEntry> {
    let share = match &raw.share {
        Some(share) => Some(errors.keep(decimal(&share.value), share, &format!("{path}.share"))?),
        None => None,
    };
    let amounts = Reader { currency, errors }.money(raw.amount.as_ref(), &format!("{path}.amount"))?;
    let redeem_by = match &raw.redeem_by {
        Some(by) => Some(instant(by, &format!("{path}.redeem_by"), errors)?),
        None => None,
    };
    let coupon = NewCoupon {
        code: raw.code.value.clone(),
        name: raw.name.clone().unwrap_or_default(),
        share,
        amounts,
        periods: raw.periods.as_ref().map(|periods| periods.value),
        prices: raw.prices.clone(),
        plans: raw.plans.iter().map(|plan| plan.value.clone()).collect(),
        redeem_by,
        max_redemptions: raw.max_redemptions.as_ref().map(|most| most.value),
    };
    if let Err(error) = coupons::check(&coupon) {
        let (field, detail) = match error {
            BillingError::Invalid { field, detail } => (field, detail),
            other => (String::new(), other.to_string()),
        };
        match (field.as_str(), &raw.share, &raw.amount, &raw.periods, &raw.max_redemptions) {
            ("/share", None, None, ..) => errors.at(&raw.code, path, "a coupon takes off either a `share` or an `amount`"),
            ("/share", Some(share), Some(_), ..) => errors.at(share, path, "a coupon takes off either a `share` or an `amount`"),
            ("/share", Some(share), ..) => errors.at(share, &format!("{path}.share"), detail),
            ("/amounts", _, Some(amount), ..) => errors.at(amount, &format!("{path}.amount"), detail),
            ("/periods", _, _, Some(periods), _) => errors.at(periods, &format!("{path}.periods"), detail),
            ("/max_redemptions", _, _, _, Some(most)) => errors.at(most, &format!("{path}.max_redemptions"), detail),
            _ => errors.at(&raw.code, &format!("{path}.code"), detail),
        }
        return None;
    }
    Some(CouponEntry { coupon, retired: raw.retired })
}
