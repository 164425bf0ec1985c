//! Faults on demand: which request fails how, for rehearsing what a network and a vendor can do.

use serde::{Deserialize, Serialize};

/// A fault for the requests that fit, as often as asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// All accounts when absent.
    pub account: Option<String>,
    /// All methods when absent.
    pub method: Option<String>,
    /// `/v1/invoices/*/finalize`: `*` is one part of the path, a last `**` any number of parts.
    pub path: String,
    pub fault: Fault,
    #[serde(default = "once")]
    pub times: u32,
    /// How many fitting requests pass unharmed first.
    #[serde(default)]
    pub skip: u32,
}

fn once() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Fault {
    /// The request is applied; the connection closes without an answer.
    Drop,
    /// The connection closes before anything happens.
    DropBefore,
    /// The request is applied; no answer ever comes.
    Hang,
    /// 500; nothing happened, nothing is remembered.
    ErrorBefore,
    /// 500, remembered under the key; `applied` says whether the request took effect.
    StoredError {
        #[serde(default)]
        applied: bool,
    },
    /// 502 with a page of a proxy instead of JSON.
    BadGateway {
        #[serde(default)]
        applied: bool,
    },
    /// 409 `lock_timeout`.
    Conflict,
    /// 429 with `Retry-After`, in seconds.
    RateLimit {
        #[serde(default = "a_second")]
        retry_after: u32,
    },
    /// Takes this long before it is applied; the key is in use meanwhile.
    Slow { millis: u64 },
}

fn a_second() -> u32 {
    1
}

#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl Faults {
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub fn clear(&mut self, account: Option<&str>) {
        self.rules.retain(|rule| account.is_some() && rule.account.as_deref() != account);
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The fault of this request: the first rule that fits and is not used up.
    pub fn take(&mut self, account: &str, method: &str, path: &str) -> Option<Fault> {
        let fits = |rule: &&mut Rule| {
            rule.times > 0
                && rule.account.as_deref().is_none_or(|name| name == account)
                && rule.method.as_deref().is_none_or(|name| name.eq_ignore_ascii_case(method))
                && fits_path(&rule.path, path)
        };
        let rule = self.rules.iter_mut().find(fits)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        let fault = rule.fault.clone();
        self.rules.retain(|rule| rule.times > 0);
        Some(fault)
    }
}

fn fits_path(pattern: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    for wanted in pattern.split('/') {
        match (wanted, parts.next()) {
            ("**", _) => return true,
            ("*", Some(part)) if !part.is_empty() => {}
            (wanted, Some(part)) if wanted == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_then_strikes_then_is_gone() {
        let mut faults = Faults::default();
        let rule = r#"{"method": "POST", "path": "/v1/invoices/*/finalize", "fault": {"kind": "drop"}, "skip": 1, "times": 2}"#;
        faults.add(serde_json::from_str(rule).unwrap());
        let mut finalize = || faults.take("a", "POST", "/v1/invoices/in_1/finalize");
        assert_eq!(finalize(), None);
        assert_eq!(finalize(), Some(Fault::Drop));
        assert_eq!(finalize(), Some(Fault::Drop));
        assert_eq!(finalize(), None);
        assert!(faults.rules().is_empty());
    }

    #[test]
    fn paths() {
        assert!(fits_path("/v1/invoices/*", "/v1/invoices/in_1") && !fits_path("/v1/invoices/*", "/v1/invoices"));
        assert!(fits_path("/v1/**", "/v1/a/b/c") && !fits_path("/v1/invoices", "/v1/invoices/in_1"));
    }
}
