//! Which period of a subscription is invoiced next: pure.
//!
//! A period is one of the plan's interval, cut where the subscription ends (its last invoice need not wait) and where
//! a plan with other periods begins.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use farebox_core::ids::PlanVersionId;
use farebox_core::period::Period;

use super::{Phase, Subscription};
use crate::rating::RatingError;
use crate::rating::plan::{Anchor, Interval, PlanDefinition};
use crate::rating::schedule::Schedule;

pub type Plans = BTreeMap<PlanVersionId, PlanDefinition>;

impl Subscription {
    /// The schedule of invoices under a plan.
    fn schedule(&self, plan: Option<&PlanDefinition>, zone: Tz) -> Schedule {
        let anchored = plan.is_some_and(|plan| plan.anchor == Anchor::Subscription);
        Schedule { interval: plan.map_or(Interval::Month, |plan| plan.interval), anchor: anchored.then_some(self.started_at), zone }
    }

    /// The schedule of invoices at an instant, and of those under a phase's plan.
    pub(crate) fn schedule_at(&self, plans: &Plans, zone: Tz, at: DateTime<Utc>) -> Schedule {
        self.schedule(self.phase_for(at).and_then(|phase| plans.get(&phase.plan_version)), zone)
    }

    pub(crate) fn schedule_under(&self, plans: &Plans, zone: Tz, phase: &Phase) -> Schedule {
        self.schedule(plans.get(&phase.plan_version), zone)
    }

    /// The phase whose plan says how time is cut at an instant: the one in force, else the next, else the last.
    fn phase_for(&self, at: DateTime<Utc>) -> Option<&Phase> {
        self.at(at).or_else(|| self.phases.iter().find(|phase| phase.from > at)).or_else(|| self.phases.last())
    }

    /// The period to invoice that begins at or around `from`: everything before `closed` is invoiced.
    pub fn period_at(&self, plans: &Plans, zone: Tz, from: DateTime<Utc>, closed: Option<DateTime<Utc>>) -> Result<Period, RatingError> {
        let plan_of = |phase: &Phase| plans.get(&phase.plan_version);
        let schedule = self.schedule(self.phase_for(from).and_then(plan_of), zone);
        let whole = schedule.period_of(from)?;
        let other = |phase: &&Phase| phase.from > from && self.schedule(plan_of(phase), zone) != schedule;
        let cuts = self.phases.iter().filter(other).map(|phase| phase.from).chain(self.ended_at.filter(|end| *end > from));
        Ok(Period { start: closed.map_or(whole.start, |closed| whole.start.max(closed)), end: cuts.fold(whole.end, DateTime::min) })
    }

    /// From where on nothing is invoiced yet.
    pub fn open_from(&self, close_from: Option<DateTime<Utc>>) -> DateTime<Utc> {
        self.closed_until.unwrap_or(self.started_at).max(close_from.unwrap_or(self.started_at))
    }

    /// The next period to invoice, and the one after it. `close_from`: what was before is billed elsewhere.
    pub fn next_period(&self, plans: &Plans, zone: Tz, close_from: Option<DateTime<Utc>>) -> Result<(Period, Period), RatingError> {
        let from = self.open_from(close_from);
        let closed = self.closed_until.or(close_from).filter(|closed| *closed <= from);
        let period = self.period_at(plans, zone, from, closed)?;
        Ok((period, self.period_at(plans, zone, period.end, Some(period.end))?))
    }

    /// When the next period closes that has something to close: in force, or billed in advance and to be given back.
    pub fn closes_at(
        &self,
        plans: &Plans,
        zone: Tz,
        close_from: Option<DateTime<Utc>>,
        billed_until: Option<DateTime<Utc>>,
    ) -> Result<Option<DateTime<Utc>>, RatingError> {
        let from = self.open_from(close_from);
        if self.goes_on_after(from) || billed_until.is_some_and(|until| until > from) {
            return Ok(Some(self.next_period(plans, zone, close_from)?.0.end));
        }
        Ok(None)
    }

    /// Whether anything is in force after `from`.
    pub fn goes_on_after(&self, from: DateTime<Utc>) -> bool {
        self.phases.iter().any(|phase| phase.to.is_none_or(|to| to > from))
    }
}
