//! The worked examples of the pricing definitions, through `farebox rate`'s own function.

use serde_json::{Value, json};

use super::cli::{change, rate};

const MONTH: &str = r#"{"from":"2026-01-01T00:00:00Z","to":"2026-02-01T00:00:00Z"}"#;

fn usage(meter_value: &str) -> String {
    format!(r#"{{"currency":"USD","period":{MONTH},"meters":{{"requests":{{"value":"{meter_value}"}}}}}}"#)
}

fn total_of(plan: &str, value: &str) -> String {
    rate(plan, &usage(value)).expect("rates")["total"].as_str().expect("a string").to_owned()
}

fn amounts(answer: &Value) -> Vec<&str> {
    answer["lines"].as_array().expect("lines").iter().map(|line| line["amount"].as_str().expect("a string")).collect()
}

fn tiered(model: &str) -> String {
    format!(
        "{{name: t, prices: [{{name: R, model: {model}, meter: requests, tiers: \
         [{{up_to: 5, unit_amount: 7}}, {{up_to: 10, unit_amount: \"6.5\"}}, {{unit_amount: 6}}]}}]}}"
    )
}

#[test]
fn example_1_volume_and_graduated() {
    for (q, cost) in [("1", "7.00"), ("5", "35.00"), ("6", "39.00"), ("20", "120.00"), ("25", "150.00")] {
        assert_eq!(total_of(&tiered("volume"), q), cost, "volume {q}");
    }
    assert_eq!(total_of(&tiered("graduated"), "6"), "41.50");
}

#[test]
fn example_2_packages() {
    let plan = "{prices: [{name: R, model: package, meter: requests, amount: 10, package_size: 5}]}";
    for (q, cost) in [("1", "10.00"), ("3", "10.00"), ("5", "10.00"), ("6", "20.00"), ("7", "20.00")] {
        assert_eq!(total_of(plan, q), cost, "{q}");
    }
    let included = "{prices: [{name: R, model: package, meter: requests, amount: 5, package_size: 100, included: 100}]}";
    assert_eq!(total_of(included, "201"), "10.00");
}

#[test]
fn example_3_graduated_percentage_as_sums_arrive() {
    let plan = "{prices: [{name: R, model: graduated_percentage, meter: volume, tiers: \
                [{up_to: 1000, rate: \"0.01\", flat_amount: 200}, {up_to: 10000, rate: \"0.02\", flat_amount: 300}]}]}";
    let mut billed = 0;
    for (sum, before, cost) in [(500, 0, 205), (1050, 500, 306), (5050, 1050, 80)] {
        let usage = format!(
            r#"{{"currency":"USD","period":{MONTH},"meters":{{"volume":{{"value":"{sum}","prior":{{"value":"{before}","billed":"{billed}"}}}}}}}}"#
        );
        assert_eq!(rate(plan, &usage).expect("rates")["total"], json!(format!("{cost}.00")), "{sum}");
        billed += cost;
    }
}

#[test]
fn example_4_the_minimum_is_trued_up() {
    let plan = "{minimum: 1000, prices: [{name: R, model: per_unit, meter: requests, unit_amount: 1}]}";
    let low = rate(plan, &usage("800")).expect("rates");
    assert_eq!(amounts(&low), ["800.00", "200.00"]);
    let high = rate(plan, &usage("1300")).expect("rates");
    assert_eq!(amounts(&high), ["1300.00"]);
}

#[test]
fn example_5_proration_by_day() {
    let monthly = |amount: &str, billed: &str| {
        format!("{{name: m, terms: {{proration: day}}, prices: [{{name: Fee, model: flat, amount: \"{amount}\", billed: {billed}}}]}}")
    };
    let left = r#"{"at":"2026-01-15T00:00:00Z","to_plan":null}"#;
    let arrears = change(&monthly("100", "in_arrears"), &format!(r#"{{"currency":"USD","period":{MONTH}}}"#), left).expect("rates");
    assert_eq!(amounts(&arrears), ["45.16"]);

    let march = r#"{"currency":"USD","period":{"from":"2026-03-01T00:00:00Z","to":"2026-04-01T00:00:00Z"}}"#;
    // The day of the change belongs to the new plan, whatever the hour.
    let upgrade = json!({"at": "2026-03-15T14:30:00Z", "to_plan": {"name": "n", "terms": {"proration": "day"},
        "prices": [{"name": "Fee", "model": "flat", "amount": "20"}]}});
    let advance = change(&monthly("10", "in_advance"), march, &upgrade.to_string()).expect("rates");
    assert_eq!(amounts(&advance), ["-5.48", "10.97"]);
}

#[test]
fn example_6_volume_with_flat_amounts_and_a_fraction() {
    let plan = "{prices: [{name: R, model: volume, meter: requests, tiers: [{up_to: 100, unit_amount: 2, flat_amount: 10}, \
                {up_to: 200, unit_amount: 1}, {unit_amount: \"0.5\", flat_amount: 50}]}]}";
    for (q, cost) in [("100", "210.00"), ("100.5", "100.50"), ("101", "101.00"), ("0", "0.00")] {
        assert_eq!(total_of(plan, q), cost, "{q}");
    }
}

#[test]
fn example_7_minimum_and_fee_of_a_cut_period() {
    let plan = "{interval: week, minimum: \"10000.00\", prices: [{name: Fee, model: flat, amount: \"1000.00\", billed: in_arrears}]}";
    let usage = r#"{"currency":"USD","period":{"from":"2026-06-01T00:00:00Z","to":"2026-06-08T00:00:00Z"},
                    "in_force":{"from":"2026-06-03T00:00:00Z","to":"2026-06-08T00:00:00Z"}}"#;
    let rated = rate(plan, usage).expect("rates");
    assert_eq!(amounts(&rated), ["714.29", "6428.57"]);
}

#[test]
fn example_8_credit_with_tax() {
    let plan = "{tax: {rate: \"0.25\", inclusive: false}, prices: [{name: Fee, model: flat, amount: \"200\"}]}";
    let june = r#"{"currency":"USD","period":{"from":"2026-06-01T00:00:00Z","to":"2026-07-01T00:00:00Z"}}"#;
    let credit = change(plan, june, r#"{"at":"2026-06-02T00:00:00Z","to_plan":null}"#).expect("rates");
    assert_eq!((&credit["subtotal"], &credit["total"]), (&json!("-193.33"), &json!("-241.66")));
}

#[test]
fn the_plan_of_the_documentation_reads_as_a_person_would_write_it() {
    let plan = "{name: growth, prices: [{name: Platform, model: flat, amount: {USD: \"49\", EUR: \"45\"}}, \
                {name: Requests, model: graduated, meter: requests, included: \"100000\", \
                 tiers: [{up_to: \"1000000\", unit_amount: \"0.0004\"}, {unit_amount: \"0.0002\"}]}]}";
    insta::assert_json_snapshot!(rate(plan, &usage("1234567")).expect("rates"));
}

#[test]
fn bounds_included_units_and_negative_usage() {
    let plan = "{prices: [{name: R, model: per_unit, meter: requests, unit_amount: \"0.10\", included: 100, minimum: 5, maximum: 20}]}";
    for (q, cost) in [("121", "5.00"), ("200", "10.00"), ("1000", "20.00"), ("0", "5.00")] {
        assert_eq!(total_of(plan, q), cost, "{q}");
    }
    let negative = rate("{prices: [{name: R, model: per_unit, meter: requests, unit_amount: 1}]}", &usage("-5")).expect("rates");
    assert_eq!(negative["total"], json!("0.00"));
    assert_eq!(negative["lines"][0]["alert"], json!("the usage of `R` is −5, below zero"));
}

#[test]
fn a_bounded_last_tier_and_a_missing_currency_are_named() {
    let bounded = "{prices: [{name: R, model: graduated, meter: requests, tiers: [{up_to: 10, unit_amount: 1}]}]}";
    assert_eq!(
        rate(bounded, &usage("11")).expect_err("beyond").to_string(),
        "price `R`: 11 is beyond its last tier, which ends at 10; leave the last tier's `up_to` out to make it open"
    );
    let euros = "{prices: [{name: Fee, model: flat, amount: {EUR: 5}}]}";
    assert!(rate(euros, &usage("0")).is_err());
}

#[test]
fn a_cap_bounds_the_usage() {
    let plan =
        "{spend_cap: 50, prices: [{name: A, model: per_unit, meter: requests, unit_amount: 1}, {name: Fee, model: flat, amount: 7}]}";
    let rated = rate(plan, &usage("80")).expect("rates");
    assert_eq!(amounts(&rated), ["7.00", "80.00", "-30.00"]);
    assert_eq!(rated["total"], json!("57.00"));
}
