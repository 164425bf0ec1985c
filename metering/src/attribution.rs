//! Whose an event is, and whether it counts: `events` joined with the timelines by event time, when asked, so that a
//! link made later re-attributes the past. Intervals of one key never overlap, so an ASOF join finds the one in force;
//! they start and end on whole minutes, so a minute never straddles one.

use std::collections::HashSet;

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
    attributed_from(rule, &events(scope))
}

/// As [`attributed`], of rows that have the columns of `events`: what would be, if they were so.
pub(crate) fn attributed_from(rule: &CountingRule, source: &str) -> String {
    select(rule, source, &|_| true)
}

/// As [`attributed`], with those columns only that some SQL names: a question about few is analysed in half of the time.
pub(crate) fn attributed_for(sql: &str, rule: &CountingRule, scope: &str) -> String {
    let named = words(sql);
    select(rule, &events(scope), &|column| named.contains(column))
}

fn events(scope: &str) -> String {
    format!("events FINAL WHERE workspace = {{ws:String}} {scope}")
}

fn words(sql: &str) -> HashSet<&str> {
    sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect()
}

const BY_SUBJECT: &str = "ASOF LEFT JOIN (SELECT key AS u_key, valid_from AS u_from, valid_to AS u_to, consumer AS u_consumer \
     FROM link FINAL WHERE workspace = {ws:String} AND kind = 'subject') AS u ON e.subject = u.u_key AND e.minute >= u.u_from";
const BY_CREDENTIAL: &str = "ASOF LEFT JOIN (SELECT key AS c_key, valid_from AS c_from, valid_to AS c_to, consumer AS c_consumer, \
     environment AS c_environment FROM link FINAL WHERE workspace = {ws:String} AND kind = 'credential') AS c \
     ON e.credential = c.c_key AND e.minute >= c.c_from";
const BY_API: &str = "LEFT ANY JOIN (SELECT api AS p_api, product AS p_product FROM api_product FINAL WHERE workspace = {ws:String}) AS p \
     ON e.api = p.p_api";
const SUBSCRIBED: &str = "ASOF LEFT JOIN (SELECT consumer AS s_consumer, product AS s_product, valid_from AS s_from, valid_to AS s_to, \
     subscription AS s_subscription, plan AS s_plan, plan_version AS s_plan_version FROM sub FINAL WHERE workspace = {ws:String}) AS s \
     ON j.consumer = s.s_consumer AND j.product = s.s_product AND j.minute >= s.s_from";

/// No alias repeats the name of a column it is computed from: a shadowed name would silently change a filter.
fn select(rule: &CountingRule, source: &str, asked: &dyn Fn(&str) -> bool) -> String {
    let reason = rule.reason_sql();
    let judged = asked("reason") || asked("counted");
    let of_reason = words(&reason);
    let wanted = |column: &str| asked(column) || (judged && of_reason.contains(column));
    let subscribed = ["subscription", "plan", "plan_version"].into_iter().any(wanted);
    let (consumer, product, environment) = (wanted("consumer") || subscribed, wanted("product") || subscribed, wanted("environment"));
    let joined_by = |column: &str| match column {
        "subject" => consumer,
        "credential" => consumer || environment,
        "api" => product,
        _ => false,
    };
    let mut columns: Vec<&str> = SEEN.into_iter().filter(|column| wanted(column) || joined_by(column)).collect();
    let seen_environment = if environment { "environment AS seen_environment, " } else { "" };
    let seen: String = columns.iter().flat_map(|column| [column, ", "]).collect();
    let mut sql = format!("SELECT {seen}{seen_environment}toStartOfMinute(time) AS minute FROM {source}");
    columns.push("minute");
    let wrap = |sql: &str, columns: &mut Vec<&'static str>, alias: &str, more: &[(bool, &'static str, &str)], joins: &[(bool, &str)]| {
        let passed = columns.iter().map(|column| format!("{alias}.{column} AS {column}"));
        let more = || more.iter().filter(|(is, ..)| *is);
        let list: Vec<_> = passed.chain(more().map(|(_, name, expression)| format!("{expression} AS {name}"))).collect();
        columns.extend(more().map(|(_, name, _)| *name));
        let joins: String = joins.iter().filter(|(is, _)| *is).flat_map(|(_, join)| [" ", join]).collect();
        format!("SELECT {} FROM ({sql}) AS {alias}{joins}", list.join(", "))
    };
    if consumer || product || environment {
        let told = "multiIf(e.seen_environment != '', toString(e.seen_environment), c.c_to > e.minute, toString(c.c_environment), '')";
        let more = [
            (consumer, "consumer", "multiIf(c.c_to > e.minute, c.c_consumer, u.u_to > e.minute, u.u_consumer, '')"),
            (environment, "environment", told),
            (product, "product", "if(p.p_product = '', 'default', toString(p.p_product))"),
        ];
        let joins = [(consumer, BY_SUBJECT), (consumer || environment, BY_CREDENTIAL), (product, BY_API)];
        sql = wrap(&sql, &mut columns, "e", &more, &joins);
    }
    if subscribed {
        let more = [
            (true, "subscription", "if(s.s_to > j.minute, s.s_subscription, '')"),
            (true, "plan", "if(s.s_to > j.minute, s.s_plan, '')"),
            (true, "plan_version", "if(s.s_to > j.minute, s.s_plan_version, '')"),
        ];
        sql = wrap(&sql, &mut columns, "j", &more, &[(true, SUBSCRIBED)]);
    }
    if judged {
        sql = format!("SELECT {}, {reason} AS reason, toBool(reason = '') AS counted FROM ({sql})", columns.join(", "));
    }
    sql
}
