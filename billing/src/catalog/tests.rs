//! What people read when a file is wrong; and that what is right reads as meant.

use super::{CatalogError, parse, parse_plan};

const GOOD: &str = include_str!("example.yaml");

fn shown(text: &str) -> String {
    let errors: Vec<CatalogError> = parse(text).expect_err("the file is wrong");
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let catalog = parse(GOOD).map_err(|e| format!("{e:#?}")).expect("right");
    insta::assert_json_snapshot!(catalog.plans);
    assert_eq!(
        catalog.meters.iter().map(|m| (m.name.as_str(), m.counted)).collect::<Vec<_>>(),
        [("searches", true), ("egress_gb", true), ("tokens", false)]
    );
    assert_eq!(catalog.consumers[0].subscriptions[0].plan, "growth");
}

#[test]
fn everything_wrong_is_named_at_once_with_its_line() {
    insta::assert_snapshot!(shown(
        r#"workspace: Acme
currency: DOLLAR
time_zone: Europe/Berlinn
seller: {name: Acme, address: {country: Germany}, invoice_number_prefix: a-very-long-prefix-indeed-}
taxes: [{name: VAT, rate: "19", countries: [de]}]
sources:
  - {name: edge, format: apisix, kafka_topic: logs}
  - {name: edge, format: kong, kafka_topic: logs}
apis:
  - {name: orders, versions: [{name: v1, deprecated: 2026-13-01}, {name: v2, deprecated: 2026-09-01, sunset: 2026-08-01}]}
meters:
  - {name: requests, event: farebox.request.v1, aggregate: count}
  - {name: tokens, event: llm, aggregate: sum}
  - {name: slow, event: farebox.request.v1, aggregate: p99}
plans:
  - name: growth
    version: 1
    interval: fortnight
    terms: {proration: hour}
    trial: {days: 0, then: nothing}
    prices:
      - {name: A, model: flat, amount: "1.005"}
      - {name: A, model: per_unit, unit_amount: "x", meter: request}
      - {name: B, model: percentage, meter: requests}
      - {name: C, model: stairs, meter: requests}
      - {name: D, model: graduated, meter: requests, tiers: [{up_to: 10, unit_amount: 1}, {up_to: 5, unit_amount: 1}]}
      - {name: E, model: volume, meter: requests, tiers: [{unit_amount: 1}, {unit_amount: 2}]}
      - {name: F, model: package, meter: requests, amount: 5}
      - {name: G, model: flat, amount: {EUR: -5}, meter: requests}
      - {name: H, model: per_unit, meter: requests, unit_amount: 1, tiers: []}
    entitlements:
      - {feature: x, routes: ["orders"], quota: {meter: nope, limit: "-1", per: fortnight}, rate: {limit: 0, per: second}}
consumers:
  - {name: a, email: nobody, subjects: [k], subscriptions: [{plan: growth, from: yesterday}]}
  - {name: a, subjects: [k]}
"#
    ));
}

#[test]
fn a_plan_that_cannot_be_billed_here_yet_is_refused() {
    insta::assert_snapshot!(shown(
        "workspace: acme/live\ncurrency: USD\ntime_zone: UTC\nplans:\n  - name: a\n    version: 1\n    interval: year\n    anchor: subscription\n    prices: [{name: Fee, model: flat, amount: {EUR: 5}}]\n"
    ));
}

#[test]
fn a_wrong_shape_names_its_line() {
    insta::assert_snapshot!(
        [
            "workspace: acme/live\ncurrency: USD\ntime_zone: UTC\nplanz: []\n",
            "workspace: acme/live\ncurrency: USD\n",
            "workspace: acme/live\n  currency: USD\n",
            "workspace: acme/live\ncurrency: USD\ntime_zone: UTC\nplans:\n  - {name: a, version: one}\n",
            "workspace: acme/live\ncurrency: USD\ntime_zone: UTC\nplans:\n  - name: a\n    version: 1\n    prices:\n      - {name: Fee, model: flat, amount: 49.10}\n",
            "workspace: [\n",
        ]
        .map(shown)
        .join("\n---\n")
    );
}

const HEAD: &str = "workspace: acme/live\ncurrency: USD\ntime_zone: UTC\n";

#[test]
fn a_format_of_ones_own_reads_as_meant() {
    let text = r"
formats:
  - name: edge-log
    fields:
      end_time: {pointer: /ts, type: epoch, unit: ms}
      status: {pointer: /http/status}
      latency: {pointer: /took, unit: s}
      subject: {pointer: /user, type: secret, unset: [anonymous]}
      response_bytes: {pointer: /sent, unit: kB}
    properties: [/region]
sources: [{name: edge, format: edge-log}]
";
    let catalog = parse(&format!("{HEAD}{text}")).map_err(|e| format!("{e:#?}")).expect("right");
    insta::assert_json_snapshot!(catalog.formats);
}

#[test]
fn a_wrong_format_names_its_line() {
    insta::assert_snapshot!(shown(&format!(
        "{HEAD}{}",
        r"formats:
  - name: kong
    fields: {time: {pointer: /t}}
  - name: Edge Log
    fields:
      time: {pointer: ts}
      end_time: {pointer: /ts, type: epoch}
      latency: {pointer: /took}
      status: {pointer: /status, unit: ms}
      subject: {pointer: /user, type: number}
      colour: {pointer: /colour}
    properties: [region]
  - name: late
    fields: {status: {pointer: /s}}
sources:
  - {name: edge, format: konng}
"
    )));
}

#[test]
fn what_decisions_go_by_reads_as_meant() {
    let text = r#"sources: [{name: edge-shadow, format: envoy}]
decisions:
  unpaid_grace_days: 14
  trust_seconds: 60
  proxies: 1
  key_header: apikey
  mirrors: [edge-shadow]
  apis:
    orders: {when_stale: closed, anonymous: {limit: 20, per: hour, routes: ["GET /orders*"]}, version_header: x-api-version, default_version: v1}
    "*": {when_stale: open}
"#;
    let catalog = parse(&format!("{HEAD}{text}")).map_err(|e| format!("{e:#?}")).expect("right");
    insta::assert_json_snapshot!(catalog.decisions);
    let silent = parse(HEAD).map_err(|e| format!("{e:#?}")).expect("right");
    assert_eq!(silent.decisions, None, "what the file does not mention stays");
}

#[test]
fn a_wrong_decision_policy_names_its_line() {
    insta::assert_snapshot!(shown(&format!(
        "{HEAD}{}",
        r"sources: [{name: edge, format: envoy}]
decisions:
  trust_seconds: 5
  key_header: Authorization
  mirrors: [edge, egde]
  apis:
    orders:
      when_stale: maybe
    reports:
      anonymous: {limit: 0, per: fortnight}
    users:
      anonymous: {limit: 0, per: hour, routes: [users]}
      version_header: x api
"
    )));
}

#[test]
fn coupons_read_as_meant() {
    let text = r#"coupons:
  - {code: HALF, name: Half a start, share: "0.5", periods: 1, prices: [Platform], plans: [growth]}
  - {code: TEN, amount: "10", max_redemptions: 5, redeem_by: 2026-12-01T00:00:00Z}
  - {code: OLD, amount: {EUR: "9"}, retired: true}
"#;
    let catalog = parse(&format!("{HEAD}{text}")).map_err(|e| format!("{e:#?}")).expect("right");
    insta::assert_debug_snapshot!(catalog.coupons);
}

#[test]
fn wrong_coupons_name_their_lines() {
    insta::assert_snapshot!(shown(&format!(
        "{HEAD}{}",
        r#"coupons:
  - {code: "", share: "0.5"}
  - {code: A, share: "25"}
  - {code: A, share: "0.1"}
  - {code: B}
  - {code: C, share: "0.1", amount: "5"}
  - {code: D, amount: "0"}
  - {code: E, amount: "1.005"}
  - {code: F, share: "0.1", periods: 0}
  - {code: G, share: "0.1", max_redemptions: 0}
  - {code: H, share: "0.1", redeem_by: tomorrow}
"#
    )));
}

#[test]
fn wrong_included_credits_name_their_lines() {
    insta::assert_snapshot!(shown(&format!(
        "{HEAD}{}",
        r#"plans:
  - name: a
    version: 1
    interval: hour
    terms:
      credits:
        - {name: "", amount: "5"}
        - {name: A}
        - {name: A, amount: "5", meter: requests, units: "5"}
        - {name: B, amount: "0"}
        - {name: C, amount: {EUR: "5"}}
        - {name: D, meter: nope, units: "-1"}
        - {name: E, meter: requests, units: "5", prices: [Fee], rollover: {most: {USD: "1"}}}
        - {name: F, amount: "5", periods: 0}
        - {name: G, amount: "5", periods: 2, expires: false, rollover: {most: "1"}}
        - {name: H, amount: "5", prices: [Fees]}
    prices: [{name: Fee, model: flat, amount: "5"}]
"#
    )));
}

#[test]
fn of_what_is_no_model_only_that_is_said() {
    let said = parse_plan("{name: a, prices: [{name: Fee, model: flatt, amount: \"5\"}]}", "USD".parse().expect("a currency"));
    let said: Vec<_> = said.expect_err("wrong").into_iter().map(|error| error.message).collect();
    assert!(said.len() == 1 && said[0].starts_with("`flatt` is not a model"), "{said:?}");
}
