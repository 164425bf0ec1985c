//! What the provider chooses about decisions, read with the line of what is wrong.

use farebox_core::problem::FieldError;

use super::errors::Errors;
use super::plan::{PERS, Reader};
use super::raw::{At, RawAnonymous, RawCatalog, RawDecisions, RawDecisionsOfApi};
use crate::decision_policy::{AnonymousPolicy, ApiPolicy, Policy, WhenStale};

/// What is left out is the default. None when the file says nothing: it stays as it is.
pub fn read(raw: &RawCatalog, errors: &mut Errors) -> Option<Policy> {
    let decisions = raw.decisions.as_ref()?;
    for (n, mirror) in decisions.mirrors.iter().enumerate() {
        // One that is mistyped would have its copies billed.
        if !raw.sources.iter().any(|source| source.name.value == mirror.value) {
            let message = format!("this file has no source named `{}`; list it under `sources`", mirror.value);
            errors.at(mirror, &format!("decisions.mirrors[{n}]"), message);
        }
    }
    let mut policy = Policy {
        unpaid_grace_days: decisions.unpaid_grace_days.as_ref().map(|days| days.value),
        proxies: decisions.proxies.as_ref().map_or(0, |proxies| proxies.value),
        key_header: decisions.key_header.as_ref().map(|header| header.value.clone()),
        mirrors: decisions.mirrors.iter().map(|mirror| mirror.value.clone()).collect(),
        ..Policy::default()
    };
    if let Some(seconds) = &decisions.trust_seconds {
        policy.trust_seconds = seconds.value;
    }
    for (name, api) in &decisions.apis {
        policy.apis.extend(one(api, &format!("decisions.apis.{name}"), errors).map(|api| (name.clone(), api)));
    }
    for error in policy.check() {
        told(decisions, error, errors);
    }
    Some(policy)
}

fn one(raw: &RawDecisionsOfApi, path: &str, errors: &mut Errors) -> Option<ApiPolicy> {
    let mut reader = Reader { currency: "USD".parse().expect("USD is a currency"), errors };
    let words = &[("open", WhenStale::Open), ("closed", WhenStale::Closed)];
    let when_stale =
        raw.when_stale.as_ref().map_or(Some(WhenStale::default()), |word| reader.word(word, &format!("{path}.when_stale"), words));
    let anonymous = raw.anonymous.as_ref().map(|raw| anonymous(raw, path, &mut reader));
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone());
    Some(ApiPolicy {
        when_stale: when_stale?,
        anonymous: anonymous.map_or(Some(None), |read| read.map(Some))?,
        version_header: text(&raw.version_header),
        default_version: text(&raw.default_version),
    })
}

fn anonymous(raw: &RawAnonymous, path: &str, reader: &mut Reader) -> Option<AnonymousPolicy> {
    let per = reader.word(&raw.per, &format!("{path}.anonymous.per"), PERS)?;
    Some(AnonymousPolicy { limit: raw.limit.value, per, routes: raw.routes.iter().map(|route| route.value.clone()).collect() })
}

/// Told at the field that the policy's own check names.
fn told(raw: &RawDecisions, error: FieldError, errors: &mut Errors) {
    let path = format!("decisions{}", error.pointer.replace('/', "."));
    let field = error.pointer.rsplit_once('/').map_or("", |(_, field)| field);
    let api = error.pointer.strip_prefix("/apis/").and_then(|rest| raw.apis.get(rest.split('/').next()?));
    let anonymous = api.and_then(|api| api.anonymous.as_ref());
    let text = match field {
        "key_header" => raw.key_header.as_ref(),
        "version_header" => api.and_then(|api| api.version_header.as_ref()),
        "routes" => anonymous.and_then(|anonymous| anonymous.routes.first()),
        _ => None,
    };
    let number = match field {
        "limit" => anonymous.map(|anonymous| &anonymous.limit),
        _ => raw.trust_seconds.as_ref(),
    };
    match (text, number) {
        (Some(text), _) => errors.at(text, &path, error.detail),
        (None, Some(number)) => errors.at(number, &path, error.detail),
        // Only what the file says can be wrong: the defaults are right.
        (None, None) => {}
    }
}
