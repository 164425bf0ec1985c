//! What the plan in force includes, and what is used of it in the running month.

use bigdecimal::{BigDecimal, Zero};
use farebox_core::money::plain;
use farebox_core::period::{Period, local_date};

use super::running::Days;
use crate::account::{self, Agreement};
use crate::context::Ctx;
use crate::view::{Facts, Meter, Note, RulerMark, Tone};
use crate::{format, words};

#[derive(Debug, Clone)]
pub struct Allowance {
    pub heading: String,
    pub figure: String,
    pub unit: String,
    pub facts: Facts,
    pub meter: Option<Meter>,
    pub note: Option<Note>,
}

/// From `days` of the agreement's meter, the running month among them.
pub fn allowance(ctx: &Ctx, agreement: Option<&Agreement>, meter: &str, days: &Days) -> Allowance {
    let month = account::month_of(ctx, ctx.now());
    let (tz, now) = (ctx.tz(), ctx.now());
    let used: BigDecimal = days.range(local_date(month.start, tz)..local_date(month.end, tz)).map(|(_, value)| value).sum();
    let included = agreement.and_then(|a| words::allowance(&a.plan.definition, a.plan.free));
    let name = words::meter(meter);
    let resets = format!("{}, {}", format::instant(month.end, tz), format::relative(month.end, now));
    let Some(included) = included else {
        let mut facts = Facts::default().with("Month ends", resets);
        if let Some(a) = agreement {
            facts = facts.with(
                "Plan",
                format!("{}, {}", words::title(&a.plan.name), words::headline(&a.plan.definition, a.plan.free, ctx.workspace.currency)),
            );
        }
        let note = agreement.is_none().then(|| {
            Note::new(Tone::Warn, "No plan is in force.", "Choose one so that your calls are let through.").with("Choose a plan", "/plan")
        });
        return Allowance { heading: "Used this month".into(), figure: format::quantity(&used), unit: name, facts, meter: None, note };
    };
    let left = (&included.units - &used).max(BigDecimal::zero());
    let forecast = project(&used, month, now);
    let over = used > included.units;
    let mut facts = Facts::default();
    facts = if over {
        facts.with("Beyond", format!("{} {name}", format::quantity(&(&used - &included.units))))
    } else {
        let share = format::percent(&left, &included.units).map_or_else(String::new, |p| format!(" ({p})"));
        facts.with("Left", format!("{} {name}{share}", format::quantity(&left)))
    };
    facts = facts.with("Resets", resets);
    if let Some(forecast) = &forecast {
        let last = local_date(month.end, tz).pred_opt().map_or_else(String::new, format::day_month);
        facts = facts.with(format!("By {last}"), format!("about {} at this pace", format::quantity(forecast)));
    }
    let passes = forecast.as_ref().is_some_and(|f| *f > included.units);
    let what = if included.refused_beyond {
        "Further calls are refused until then."
    } else if included.charged_beyond {
        "Calls keep working and are charged by your plan's prices."
    } else {
        "Calls keep working."
    };
    let note = if over {
        Some(Note::new(Tone::Warn, "Your allowance is used up.", what).with("See your plan", "/plan"))
    } else if passes {
        let text =
            if included.refused_beyond { "At this pace calls will be refused before the month ends.".to_owned() } else { what.to_owned() };
        Some(Note::new(Tone::Warn, "At this pace you will pass your allowance this month.", text).with("See your plan", "/plan"))
    } else if used.is_zero() {
        Some(
            Note::new(Tone::Plain, "No calls this month yet.", "The first one shows up here within seconds.").with("Make a call", "/start"),
        )
    } else {
        None
    };
    Allowance {
        heading: "Used of your allowance".into(),
        figure: format::quantity(&used),
        unit: format!("of {} {name}", format::quantity(&included.units)),
        facts,
        meter: Some(gauge(&used, &included.units, forecast.as_ref(), &name)),
        note,
    }
}

/// What the month comes to when the rest goes like the part so far; `None` in its first day, which tells little.
fn project(used: &BigDecimal, month: Period, now: chrono::DateTime<chrono::Utc>) -> Option<BigDecimal> {
    let (gone, whole) = ((now - month.start).num_seconds(), (month.end - month.start).num_seconds());
    if gone < 86_400 || gone >= whole || used.is_zero() {
        return None;
    }
    Some((used * BigDecimal::from(whole) / BigDecimal::from(gone)).with_scale_round(0, bigdecimal::RoundingMode::HalfUp))
}

/// The scale ends with the allowance, or beyond it where usage or its forecast does; at most at four times of it.
fn gauge(used: &BigDecimal, units: &BigDecimal, forecast: Option<&BigDecimal>, name: &str) -> Meter {
    let most = forecast.into_iter().chain([used, units]).max().unwrap_or(units);
    let beyond = most > units;
    let scale = if beyond { (most * BigDecimal::from(21) / BigDecimal::from(20)).min(units * BigDecimal::from(4)) } else { units.clone() };
    let at = |value: &BigDecimal| format::share_class(value, &scale);
    let half = units / BigDecimal::from(2);
    let mut ruler = vec![RulerMark { at: "v0".into(), text: "0".into() }];
    if !beyond {
        ruler.push(RulerMark { at: at(&half), text: format::quantity(&half.with_scale_round(0, bigdecimal::RoundingMode::HalfUp)) });
    }
    ruler.push(RulerMark { at: at(units), text: format::quantity(units) });
    let drawn = forecast.filter(|forecast| *forecast > used);
    Meter {
        label: "Used of your allowance".into(),
        now: plain(used),
        max: plain(if beyond { most } else { units }),
        text: format!("{} of {} {name} used", format::quantity(used), format::quantity(units)),
        used: at(used),
        cap: beyond.then(|| at(units)),
        forecast: drawn.map(|forecast| (at(used), at(forecast))),
        thin: false,
        ruler,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_grows_when_the_allowance_is_passed() {
        let dec = |n: i64| BigDecimal::from(n);
        let within = gauge(&dec(250), &dec(1000), None, "requests");
        assert_eq!((within.used.as_str(), within.cap, within.max.as_str()), ("v25", None, "1000"));
        let beyond = gauge(&dec(2000), &dec(1000), None, "requests");
        assert_eq!((beyond.used.as_str(), beyond.cap.as_deref()), ("v95", Some("v47_5")));
    }
}
