//! Whose an event is, and whether it counts: `events` joined with the timelines by event time, when asked, so that a
//! link made later re-attributes the past. Intervals of one key never overlap, so an ASOF join finds the one in force;
//! they start and end on whole minutes, so a minute never straddles one.

use crate::rule::CountingRule;

/// Columns of `events` that pass through unchanged.
pub(crate) const SEEN: [&str; 22] = [
    "id",
    "time",
    "received_at",
    "source",
    "type",
    "subject",
    "credential",
    "gateway",
    "country",
    "answered_by",
    "api",
    "api_version",
    "route",
    "method",
    "marker",
    "status",
    "latency_us",
    "request_bytes",
    "response_bytes",
    "cached",
    "properties",
    "version",
];

/// A SELECT of the workspace's (`{ws:String}`) deduplicated events with `minute`, and with what follows from the
/// timelines and the rule: `consumer` (the credential's before the subject's, so that moving a key re-attributes),
/// `environment` (the credential's where the event tells none), `product`, `subscription`, `plan`, `plan_version`,
/// `reason` and `counted`.
///
/// `scope` is ANDed to the choice of events. It may use `minute` expressions over `time`, but nothing that tells
/// copies of one event apart, because it can apply before they are merged.
pub(crate) fn attributed(rule: &CountingRule, scope: &str) -> String {
    attributed_from(rule, &format!("events FINAL WHERE workspace = {{ws:String}} {scope}"))
}

/// As [`attributed`], of rows that have the columns of `events`: what would be, if they were so.
pub(crate) fn attributed_from(rule: &CountingRule, source: &str) -> String {
    let list = |prefix: &str| SEEN.map(|c| format!("{prefix}{c} AS {c}")).join(", ");
    let (seen, from_event, from_join, passed) = (SEEN.join(", "), list("e."), list("j."), SEEN.join(", "));
    let reason = rule.reason_sql();
    // No alias repeats the name of a column it is computed from: a shadowed name would silently change a filter.
    format!(
        "SELECT {passed}, minute, environment, consumer, product, subscription, plan, plan_version, {reason} AS reason, toBool(reason = '') AS counted FROM (\
         SELECT {from_join}, j.minute AS minute, j.environment AS environment, j.consumer AS consumer, j.product AS product, \
         if(s.s_to > j.minute, s.s_subscription, '') AS subscription, if(s.s_to > j.minute, s.s_plan, '') AS plan, \
         if(s.s_to > j.minute, s.s_plan_version, '') AS plan_version FROM (\
         SELECT {from_event}, e.minute AS minute, \
         multiIf(c.c_to > e.minute, c.c_consumer, u.u_to > e.minute, u.u_consumer, '') AS consumer, \
         multiIf(e.seen_environment != '', toString(e.seen_environment), c.c_to > e.minute, toString(c.c_environment), '') AS environment, \
         if(p.p_product = '', 'default', toString(p.p_product)) AS product FROM (\
         SELECT {seen}, environment AS seen_environment, toStartOfMinute(time) AS minute FROM {source}) AS e \
         ASOF LEFT JOIN (SELECT key AS u_key, valid_from AS u_from, valid_to AS u_to, consumer AS u_consumer FROM link FINAL \
         WHERE workspace = {{ws:String}} AND kind = 'subject') AS u ON e.subject = u.u_key AND e.minute >= u.u_from \
         ASOF LEFT JOIN (SELECT key AS c_key, valid_from AS c_from, valid_to AS c_to, consumer AS c_consumer, environment AS c_environment \
         FROM link FINAL WHERE workspace = {{ws:String}} AND kind = 'credential') AS c ON e.credential = c.c_key AND e.minute >= c.c_from \
         LEFT ANY JOIN (SELECT api AS p_api, product AS p_product FROM api_product FINAL WHERE workspace = {{ws:String}}) AS p ON e.api = p.p_api\
         ) AS j ASOF LEFT JOIN (SELECT consumer AS s_consumer, product AS s_product, valid_from AS s_from, valid_to AS s_to, \
         subscription AS s_subscription, plan AS s_plan, plan_version AS s_plan_version FROM sub FINAL WHERE workspace = {{ws:String}}) AS s \
         ON j.consumer = s.s_consumer AND j.product = s.s_product AND j.minute >= s.s_from)"
    )
}
