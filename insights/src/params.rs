//! Query parameters of each KPI as typed parameters.

use crate::action::{self, Action};
use crate::arithmetic::retention::{Bracket, Mean, Mode};
use crate::error::KpiError;
use crate::kpis::{
    ActivationParams, Cohorts, ComparedParams, ConversionParams, FunnelParams, LifecycleParams, RetentionParams, RevenueParams,
    StickinessParams, UsageParams, VersionsParams,
};
use crate::query::{Query, window};

const MAX_STEPS: usize = 20;
const MAX_PERIODS: i64 = 400;

pub fn activation(mut query: Query) -> Result<ActivationParams, KpiError> {
    let default = ActivationParams::default();
    let params = ActivationParams {
        common: query.common(),
        start: query
            .read("start", |text| match text.parse()? {
                start @ (Action::Signup | Action::Key) => Ok(start),
                _ => Err(format!("`{text}` is not one of signup, key")),
            })
            .unwrap_or(default.start),
        window: query.read("window", window).unwrap_or(default.window),
    };
    query.finish("activation").map(|()| params)
}

pub fn conversion(mut query: Query) -> Result<ConversionParams, KpiError> {
    let default = ConversionParams::default();
    let params = ConversionParams {
        common: query.common(),
        start: query.read("start", str::parse).unwrap_or(default.start),
        goal: query.read("goal", str::parse).unwrap_or(default.goal),
        window: query.read("window", window).unwrap_or(default.window),
    };
    query.finish("conversion").map(|()| params)
}

pub fn funnel(mut query: Query) -> Result<FunnelParams, KpiError> {
    let default = FunnelParams::default();
    let steps = query.read("steps", |text| match action::list(text) {
        Ok(steps) if steps.len() > MAX_STEPS => Err(format!("has {} steps; at most {MAX_STEPS} are taken", steps.len())),
        other => other,
    });
    let params = FunnelParams {
        common: query.common(),
        steps: steps.unwrap_or(default.steps),
        window: query.read("window", window).unwrap_or(default.window),
    };
    query.finish("funnel").map(|()| params)
}

pub fn retention(mut query: Query) -> Result<RetentionParams, KpiError> {
    let default = RetentionParams::default();
    let common = query.common();
    let mode = query.choose("mode", &[("n_day", "n_day"), ("unbounded", "unbounded"), ("bracket", "bracket")]).unwrap_or("n_day");
    let brackets = query.read("brackets", |text| match mode {
        "bracket" => brackets(text),
        _ => Err("is only taken with mode=bracket".to_owned()),
    });
    let params = RetentionParams {
        common,
        mode: match mode {
            "unbounded" => Mode::Unbounded,
            "bracket" => Mode::Bracket(brackets.clone().unwrap_or_default()),
            _ => Mode::NDay,
        },
        cohort: query.choose("cohort", &[("recurring", Cohorts::Recurring), ("first_time", Cohorts::FirstTime)]).unwrap_or(default.cohort),
        start: query.read("start", str::parse).unwrap_or(default.start),
        returns: query.read("return", str::parse).unwrap_or(default.returns),
        periods: query.number("periods", 1, MAX_PERIODS),
        min_count: query.number("min_count", 1, i64::from(u32::MAX)).and_then(|n| u64::try_from(n).ok()).unwrap_or(default.min_count),
        mean: query.choose("mean", &[("weighted", Mean::Weighted), ("simple", Mean::Simple)]).unwrap_or(default.mean),
    };
    query.finish("retention")?;
    if mode == "bracket" && brackets.is_none() {
        return Err(KpiError::field("brackets", "is needed with mode=bracket, such as 0-2,3-6"));
    }
    Ok(params)
}

/// `0-2,3-6`, or single intervals: `1,7`.
fn brackets(text: &str) -> Result<Vec<Bracket>, String> {
    let wrong = |part: &str| format!("`{part}` is not a range of intervals such as 3-6, up to {MAX_PERIODS}");
    let mut found: Vec<Bracket> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |n: &str| n.trim().parse::<u16>().map(i64::from).map_err(|_| wrong(part));
        let bracket = Bracket { first: number(first)?, last: number(last)? };
        if bracket.first > bracket.last || bracket.last > MAX_PERIODS {
            return Err(wrong(part));
        }
        if found.last().is_some_and(|before| bracket.first <= before.last) {
            return Err(format!("`{part}` does not come after the bracket before it"));
        }
        found.push(bracket);
    }
    Ok(found)
}

pub fn lifecycle(mut query: Query) -> Result<LifecycleParams, KpiError> {
    let params = LifecycleParams { common: query.common() };
    query.finish("lifecycle").map(|()| params)
}

pub fn stickiness(mut query: Query) -> Result<StickinessParams, KpiError> {
    let params = StickinessParams { common: query.common() };
    query.finish("stickiness").map(|()| params)
}

pub fn revenue(mut query: Query) -> Result<RevenueParams, KpiError> {
    let params = RevenueParams { common: query.common(), currency: query.read("currency", str::parse) };
    query.finish("revenue").map(|()| params)
}

pub fn usage(mut query: Query) -> Result<UsageParams, KpiError> {
    let default = UsageParams::default();
    let params = UsageParams {
        common: query.common(),
        top: query.number("top", 0, 500).and_then(|n| usize::try_from(n).ok()).unwrap_or(default.top),
    };
    query.finish("usage").map(|()| params)
}

pub fn versions(mut query: Query) -> Result<VersionsParams, KpiError> {
    let params = VersionsParams { common: query.common() };
    query.finish("versions").map(|()| params)
}

pub fn compared(mut query: Query) -> Result<ComparedParams, KpiError> {
    let mut needed =
        |name: &'static str| query.read(name, |text| if text.is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) });
    let (api, base, canary) = (needed("api"), needed("base"), needed("canary"));
    let (from, to) = (query.moment("from"), query.moment("to"));
    query.finish("versions/compare")?;
    let missing = |name: &str| KpiError::field(name, "is needed, such as api=orders&base=v1&canary=v2");
    Ok(ComparedParams {
        api: api.ok_or_else(|| missing("api"))?,
        base: base.ok_or_else(|| missing("base"))?,
        canary: canary.ok_or_else(|| missing("canary"))?,
        from,
        to,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use farebox_core::problem::Problem;

    fn query(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('='));
        Query::new(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn retention_takes_all_that_the_interface_names() {
        let text = "mode=bracket&brackets=0-2,3-6,9&cohort=first_time&start=signup&return=call[api=orders]&periods=4&min_count=3&mean=simple&interval=day&week_start=sunday";
        let params = retention(query(text)).expect("all known");
        assert_eq!(
            params.mode,
            Mode::Bracket(vec![Bracket { first: 0, last: 2 }, Bracket { first: 3, last: 6 }, Bracket { first: 9, last: 9 }])
        );
        assert_eq!((params.cohort, params.start, params.periods, params.min_count), (Cohorts::FirstTime, Action::Signup, Some(4), 3));
        assert_eq!(params.returns.to_string(), "call[api=orders]");
    }

    #[test]
    fn wrong_parameters_are_named_with_what_to_do() {
        let refused = |result: Result<String, KpiError>| Problem::from(result.expect_err("must be refused")).detail;
        let told = [
            refused(retention(query("mode=weekly")).map(|p| format!("{p:?}"))),
            refused(retention(query("mode=bracket")).map(|p| format!("{p:?}"))),
            refused(retention(query("brackets=0-2")).map(|p| format!("{p:?}"))),
            refused(retention(query("mode=bracket&brackets=3-1")).map(|p| format!("{p:?}"))),
            refused(retention(query("mode=bracket&brackets=0-3,2-4&min_count=0")).map(|p| format!("{p:?}"))),
            refused(funnel(query("steps=signup,keys&window=14")).map(|p| format!("{p:?}"))),
            refused(activation(query("start=call")).map(|p| format!("{p:?}"))),
            refused(lifecycle(query("mode=n_day")).map(|p| format!("{p:?}"))),
        ];
        insta::assert_snapshot!(told.join("\n"), @r"
        Correct these and send again: mode: `weekly` is not one of n_day, unbounded, bracket
        Correct these and send again: brackets: is needed with mode=bracket, such as 0-2,3-6
        Correct these and send again: brackets: is only taken with mode=bracket
        Correct these and send again: brackets: `3-1` is not a range of intervals such as 3-6, up to 400
        Correct these and send again: brackets: `2-4` does not come after the bracket before it; min_count: `0` is not a whole number from 1 to 4294967295
        Correct these and send again: steps: `keys` is not an action; actions are signup, key, call, call[route=...,api=...,version=...], activated and paid; window: `14` is not a length of time such as 36h, 14d or 2w, of at most 1096d
        Correct these and send again: start: `call` is not one of signup, key
        Correct these and send again: mode: is not a parameter of lifecycle, which takes from, to, interval, time_zone, week_start, unit, filter[api], filter[version], filter[route]
        ");
    }
}
