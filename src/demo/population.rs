//! Who lives in the demo: some two hundred consumers, each with a believable life. Deterministic for a seed and a
//! "today", so that a second run tells the same story.

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Utc, Weekday};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// How a consumer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Signed up, never called.
    Silent,
    /// Tries a few calls and leaves.
    Tourist,
    /// Stays on the free plan.
    Hobby,
    /// Grows out of the free plan into a paid one.
    Convert,
    /// Pays from the first day.
    Customer,
    /// Pays, then leaves.
    Churner,
    /// Few, large, on the biggest plan.
    Enterprise,
}

#[derive(Debug, Clone)]
pub struct Resident {
    /// Company name, as on invoices.
    pub name: String,
    /// Consumer key at the gateway.
    pub subject: String,
    pub email: String,
    pub country: &'static str,
    pub life: Life,
    pub signed_up: DateTime<Utc>,
    /// First day of calls; none for the silent.
    pub first_call: Option<NaiveDate>,
    /// Last day of calls, when they left.
    pub last_call: Option<NaiveDate>,
    /// The instant of the change from free to paid.
    pub upgraded: Option<DateTime<Utc>>,
    /// Calls on an ordinary weekday.
    pub daily: f64,
    /// Share of calls that still go to the deprecated v1.
    pub on_v1: f64,
    /// Calls at night and on weekends as much as by day.
    pub machine: bool,
    /// The card fails when charged.
    pub bad_card: bool,
}

const FIRST: [&str; 40] = [
    "Northbank",
    "Juniper",
    "Copperfield",
    "Lumen",
    "Harbor",
    "Tidewater",
    "Alder",
    "Quarry",
    "Foxglove",
    "Meridian",
    "Saltmarsh",
    "Brightwell",
    "Kestrel",
    "Ironwood",
    "Fernhill",
    "Redshift",
    "Bluebell",
    "Cobalt",
    "Driftwood",
    "Elmstead",
    "Flint",
    "Granite",
    "Hollow",
    "Inlet",
    "Jasper",
    "Kiln",
    "Larkspur",
    "Mistral",
    "Nimbus",
    "Orchard",
    "Pinecrest",
    "Quill",
    "Rowan",
    "Sable",
    "Thistle",
    "Umber",
    "Vale",
    "Willow",
    "Yarrow",
    "Zephyr",
];
const SECOND: [&str; 10] = ["Logistics", "Labs", "Retail", "Analytics", "Foods", "Mobility", "Travel", "Systems", "Health", "Works"];
const COUNTRIES: [(&str, u32); 8] = [("DE", 30), ("US", 25), ("GB", 12), ("FR", 10), ("NL", 8), ("IN", 6), ("BR", 5), ("JP", 4)];

impl Resident {
    pub fn pays(&self) -> bool {
        matches!(self.life, Life::Convert | Life::Customer | Life::Churner | Life::Enterprise)
    }

    /// The plan from sign-up on.
    pub fn first_plan(&self) -> &'static str {
        match self.life {
            Life::Silent | Life::Tourist | Life::Hobby | Life::Convert => "free",
            Life::Customer | Life::Churner => "growth",
            Life::Enterprise => "scale",
        }
    }

    /// How many calls to make on `day`, before chance.
    pub fn expected_calls(&self, day: NaiveDate) -> f64 {
        let Some(first) = self.first_call else { return 0.0 };
        if day < first || self.last_call.is_some_and(|last| day > last) {
            return 0.0;
        }
        let age = (day - first).num_days();
        // The first days are trying out; then growth of a few percent a week.
        let ramp = match age {
            0 => 0.15,
            1..=6 => 0.5,
            _ => 1.0,
        };
        let growth = 1.0 + 0.004 * f64::from(i32::try_from(age).unwrap_or(0));
        let weekend = if matches!(day.weekday(), Weekday::Sat | Weekday::Sun) && !self.machine { 0.3 } else { 1.0 };
        let upgraded = if self.upgraded.is_some_and(|at| at.date_naive() <= day) { 4.0 } else { 1.0 };
        let fading = match self.last_call {
            Some(last) if (last - day).num_days() < 7 => 0.4,
            _ => 1.0,
        };
        self.daily * ramp * growth * weekend * upgraded * fading
    }
}

/// `count` consumers who sign up between `from` and `to`, more of them later on.
pub fn people(count: usize, from: NaiveDate, to: NaiveDate, seed: u64) -> Vec<Resident> {
    let mut rng = StdRng::seed_from_u64(seed);
    let days = (to - from).num_days();
    let mut residents: Vec<_> = (0..count).map(|n| resident(n, from, to, days, &mut rng)).collect();
    residents.sort_by_key(|r| r.signed_up);
    residents
}

fn resident(n: usize, from: NaiveDate, to: NaiveDate, days: i64, rng: &mut StdRng) -> Resident {
    let name = format!("{} {}", FIRST[n % FIRST.len()], SECOND[(n / FIRST.len() + n) % SECOND.len()]);
    let subject = format!("{}-{:03}", FIRST[n % FIRST.len()].to_lowercase(), n);
    let life = match rng.random_range(0..100) {
        0..12 => Life::Silent,
        12..30 => Life::Tourist,
        30..56 => Life::Hobby,
        56..72 => Life::Convert,
        72..90 => Life::Customer,
        90..96 => Life::Churner,
        _ => Life::Enterprise,
    };
    // A quarter was there from the beginning; of the rest, more come later than sooner.
    let share: f64 = if rng.random_bool(0.25) { rng.random::<f64>() * 0.05 } else { rng.random::<f64>().sqrt() };
    #[allow(clippy::cast_possible_truncation)] // a number of days
    let signup_day = from + TimeDelta::days((share * f64::from(i32::try_from(days - 1).unwrap_or(0))) as i64);
    let signed_up = at(signup_day, rng.random_range(7 * 3600..20 * 3600));
    let delay = *[0, 0, 0, 0, 1, 1, 2, 3, 5, 9].choose(rng).expect("not empty");
    let first_call = (life != Life::Silent).then(|| signup_day + TimeDelta::days(delay)).filter(|day| *day <= to);
    let leaves = |after: i64| first_call.map(|day| day + TimeDelta::days(after)).filter(|day| *day < to);
    let last_call = match life {
        Life::Tourist => leaves(rng.random_range(0..6)),
        Life::Churner => leaves(rng.random_range(25..60)),
        _ => None,
    };
    let upgraded = (life == Life::Convert)
        .then(|| signup_day + TimeDelta::days(rng.random_range(6..35)))
        .filter(|day| *day < to)
        .map(|day| at(day, rng.random_range(8 * 3600..18 * 3600)));
    let daily = match life {
        Life::Silent => 0.0,
        Life::Tourist => rng.random_range(3.0..15.0),
        Life::Hobby => rng.random_range(2.0..14.0),
        Life::Convert => rng.random_range(8.0..25.0),
        Life::Customer | Life::Churner => rng.random_range(15.0..70.0),
        Life::Enterprise => rng.random_range(120.0..320.0),
    };
    let early = share < 0.3;
    Resident {
        email: format!("dev@{}-{n:03}.example", FIRST[n % FIRST.len()].to_lowercase()),
        name,
        subject,
        country: country(rng),
        life,
        signed_up,
        first_call,
        last_call,
        upgraded,
        daily,
        on_v1: if early { rng.random_range(0.3..0.95) } else { rng.random_range(0.0..0.15) },
        machine: rng.random_bool(0.3),
        bad_card: rng.random_bool(0.06),
    }
}

fn at(day: NaiveDate, second: u32) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc() + TimeDelta::seconds(i64::from(second))
}

fn country(rng: &mut StdRng) -> &'static str {
    COUNTRIES.choose_weighted(rng, |(_, weight)| *weight).map_or("DE", |(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_the_same_each_time_and_has_every_kind_of_life() {
        let (from, to) = (NaiveDate::from_ymd_opt(2026, 8, 1).expect("a date"), NaiveDate::from_ymd_opt(2026, 11, 1).expect("a date"));
        let told = |_| people(200, from, to, 7).into_iter().map(|r| (r.subject, r.signed_up, r.upgraded)).collect::<Vec<_>>();
        assert_eq!(told(1), told(2));
        let all = people(200, from, to, 7);
        for life in [Life::Silent, Life::Tourist, Life::Hobby, Life::Convert, Life::Customer, Life::Churner, Life::Enterprise] {
            assert!(all.iter().any(|r| r.life == life), "{life:?}");
        }
        let later = all.iter().filter(|r| r.signed_up.date_naive() > from + TimeDelta::days(46)).count();
        assert!(later > 90, "growth: {later} of 200 in the second half");
        let subjects: std::collections::BTreeSet<_> = all.iter().map(|r| &r.subject).collect();
        assert_eq!(subjects.len(), 200);
    }
}
