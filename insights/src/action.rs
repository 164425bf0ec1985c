//! What a person can do that KPIs count: `signup`, `key`, `call`, `call[route=/a,api=orders,version=v1]`,
//! `activated`, `paid`.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Which calls are meant; empty means all that qualify.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallFilter {
    pub api: Option<String>,
    pub version: Option<String>,
    pub route: Option<String>,
}

impl CallFilter {
    pub const NAMES: [&'static str; 3] = ["api", "version", "route"];

    /// Narrows by one dimension. Err says why not.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let place = match name {
            "api" => &mut self.api,
            "version" => &mut self.version,
            "route" => &mut self.route,
            _ => return Err(format!("`{name}` cannot be filtered by; it must be one of {}", Self::NAMES.join(", "))),
        };
        if value.is_empty() {
            return Err(format!("`{name}` has no value"));
        }
        if place.replace(value.to_owned()).is_some() {
            return Err(format!("`{name}` is given twice"));
        }
        Ok(())
    }

    /// Both must hold. None when they contradict each other, so that no call can match.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let both = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) if a != b => None,
            _ => Some(a.clone().or_else(|| b.clone())),
        };
        Some(Self {
            api: both(&self.api, &other.api)?,
            version: both(&self.version, &other.version)?,
            route: both(&self.route, &other.route)?,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The consumer signed up.
    Signup,
    /// A key was issued.
    Key,
    /// A call that qualifies: it succeeded, with the consumer's own credential, in production.
    Call(CallFilter),
    /// The first qualifying call, within seven days of sign-up.
    Activated,
    /// The first paid invoice.
    Paid,
}

impl Action {
    pub fn call() -> Self {
        Self::Call(CallFilter::default())
    }
}

impl FromStr for Action {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = "actions are signup, key, call, call[route=...,api=...,version=...], activated and paid";
        match text {
            "signup" => return Ok(Self::Signup),
            "key" => return Ok(Self::Key),
            "call" => return Ok(Self::call()),
            "activated" => return Ok(Self::Activated),
            "paid" => return Ok(Self::Paid),
            _ => {}
        }
        let inner = text
            .strip_prefix("call[")
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or_else(|| format!("`{text}` is not an action; {known}"))?;
        let mut filter = CallFilter::default();
        for pair in inner.split(',') {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not of the form name=value; {known}"))?;
            filter.set(name.trim(), value.trim())?;
        }
        Ok(Self::Call(filter))
    }
}

/// Reads `signup,key,call[route=/a,api=orders]`: commas within brackets belong to the action.
pub fn list(text: &str) -> Result<Vec<Action>, String> {
    let mut depth = 0_usize;
    let separates = |c: char| {
        depth = match c {
            '[' => depth + 1,
            ']' => depth.saturating_sub(1),
            _ => depth,
        };
        c == ',' && depth == 0
    };
    text.split(separates).map(|part| part.trim().parse()).collect()
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = match self {
            Self::Signup => return f.write_str("signup"),
            Self::Key => return f.write_str("key"),
            Self::Activated => return f.write_str("activated"),
            Self::Paid => return f.write_str("paid"),
            Self::Call(filter) => filter,
        };
        let named = [("route", &filter.route), ("api", &filter.api), ("version", &filter.version)];
        let pairs: Vec<_> = named.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
        if pairs.is_empty() { f.write_str("call") } else { write!(f, "call[{}]", pairs.join(",")) }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_read_as_they_are_written() {
        let text = "signup,key,call[route=GET /a/{id},api=orders,version=v1],call,activated,paid";
        let actions = list(text).expect("all known");
        assert_eq!(actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), text);
        assert_eq!(list("signup, paid").expect("spaces are fine"), [Action::Signup, Action::Paid]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        insta::assert_snapshot!(["sign-up", "call[", "call[foo=1]", "call[route]", "call[api=a,api=b]", ""].map(|t| t.parse::<Action>().expect_err(t)).join("\n"), @r"
        `sign-up` is not an action; actions are signup, key, call, call[route=...,api=...,version=...], activated and paid
        `call[` is not an action; actions are signup, key, call, call[route=...,api=...,version=...], activated and paid
        `foo` cannot be filtered by; it must be one of api, version, route
        `route` is not of the form name=value; actions are signup, key, call, call[route=...,api=...,version=...], activated and paid
        `api` is given twice
        `` is not an action; actions are signup, key, call, call[route=...,api=...,version=...], activated and paid
        ");
    }

    #[test]
    fn filters_that_contradict_match_nothing() {
        let on = |api: &str| CallFilter { api: Some(api.to_owned()), ..CallFilter::default() };
        assert_eq!(on("a").and(&on("b")), None);
        assert_eq!(on("a").and(&CallFilter::default()), Some(on("a")));
    }
}
