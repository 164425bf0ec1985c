//! Currencies, extremes and calendars, through `farebox rate`'s own function.

use serde_json::{Value, json};

use super::cli::{change, rate};

fn usage(currency: &str, from: &str, to: &str, meters: &Value) -> String {
    json!({ "currency": currency, "period": { "from": from, "to": to }, "meters": meters }).to_string()
}

fn january(currency: &str, meters: &Value) -> String {
    usage(currency, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", meters)
}

fn amounts(answer: &Value) -> Vec<&str> {
    answer["lines"].as_array().expect("lines").iter().map(|line| line["amount"].as_str().expect("a string")).collect()
}

fn rated(plan: &str, usage: &str) -> Vec<String> {
    let answer = rate(plan, usage).expect("rates");
    amounts(&answer).into_iter().map(str::to_owned).collect()
}

#[test]
fn each_currency_has_its_own_minor_unit() {
    for (currency, amount, tax, total) in [
        ("JPY", "150", "29", "179"),
        ("ISK", "150", "29", "179"),
        ("KWD", "149.505", "28.406", "177.911"),
        ("USD", "149.51", "28.41", "177.92"),
        ("EUR", "149.51", "28.41", "177.92"),
    ] {
        let plan = format!(
            "{{tax: {{rate: \"0.19\"}}, prices: [{{name: R, model: per_unit, meter: requests, unit_amount: {{{currency}: \"1.49505\"}}}}]}}"
        );
        let answer = rate(&plan, &january(currency, &json!({ "requests": { "value": "100" } }))).expect("rates");
        assert_eq!((amounts(&answer)[0], answer["tax"].as_str(), answer["total"].as_str()), (amount, Some(tax), Some(total)), "{currency}");
    }
}

#[test]
fn a_fee_finer_than_the_currency_is_refused() {
    for (currency, amount) in [("JPY", "4.5"), ("ISK", "0.1"), ("KWD", "1.0005"), ("USD", "1.005")] {
        let plan = format!("{{prices: [{{name: Fee, model: flat, amount: {{{currency}: \"{amount}\"}}}}]}}");
        let refused = rate(&plan, &january(currency, &json!({}))).expect_err("finer than the minor unit").to_string();
        assert!(refused.contains("has more decimals than"), "{refused}");
    }
}

#[test]
fn near_the_end_of_64_bits_an_amount_is_exact_and_beyond_it_an_error() {
    let plan = "{prices: [{name: R, model: per_unit, meter: requests, unit_amount: 1}]}";
    let of = |value: &str| rate(plan, &january("USD", &json!({ "requests": { "value": value } })));
    assert_eq!(of("92233720368547758.07").expect("the last one")["total"], json!("92233720368547758.07"));
    assert_eq!(of("92233720368547758.08").expect_err("one more").to_string(), "the amount is too large for USD's minor units in 64 bits");
    // Two that fit, and a sum that does not.
    let two = "{prices: [{name: A, model: per_unit, meter: requests, unit_amount: 1}, {name: B, model: per_unit, meter: requests, unit_amount: 1}]}";
    assert!(rate(two, &january("JPY", &json!({ "requests": { "value": "9223372036854775807" } }))).is_err());
    // Taxes are exact there too, or an error.
    let taxed = "{tax: {rate: \"0.19\", inclusive: true}, prices: [{name: R, model: per_unit, meter: requests, unit_amount: 1}]}";
    let answer = rate(taxed, &january("USD", &json!({ "requests": { "value": "92233720368547758.07" } }))).expect("fits");
    assert_eq!((answer["subtotal"].as_str(), answer["tax"].as_str()), (Some("77507328040796435.35"), Some("14726392327751322.72")));
}

#[test]
fn nothing_at_all_is_an_invoice_of_zero() {
    assert_eq!(rate("{prices: []}", &january("USD", &json!({}))).expect("rates")["total"], json!("0.00"));
    let plan = "{prices: [{name: Fee, model: flat, amount: \"0\"}, {name: R, model: per_unit, meter: requests, unit_amount: \"0.5\"}]}";
    assert_eq!(rated(plan, &january("USD", &json!({ "requests": { "value": "0" } }))), ["0.00", "0.00"]);
    assert_eq!(rated(plan, &january("JPY", &json!({ "requests": { "value": "1" } }))), ["0", "1"], "half a yen is one");
}

#[test]
fn negative_usage_rates_as_zero_in_every_model() {
    let models = [
        "model: per_unit, unit_amount: 1",
        "model: package, amount: 1, package_size: 5",
        "model: graduated, tiers: [{unit_amount: 1, flat_amount: 3}]",
        "model: volume, tiers: [{unit_amount: 1, flat_amount: 3}]",
        "model: graduated_percentage, tiers: [{rate: \"0.1\"}]",
        "model: percentage, rate: \"0.1\"",
        "model: pass_through",
    ];
    for model in models {
        let plan = format!("{{prices: [{{name: R, meter: requests, {model}}}]}}");
        let answer = rate(&plan, &january("USD", &json!({ "requests": { "value": "-7.5" } }))).expect("rates");
        assert_eq!(answer["total"], json!("0.00"), "{model}");
        assert_eq!(answer["lines"][0]["alert"], json!("the usage of `R` is −7.5, below zero"), "{model}");
    }
}

#[test]
fn a_period_without_length_has_no_fee() {
    let plan = "{prices: [{name: Fee, model: flat, amount: 10}]}";
    let instant = "2026-01-01T00:00:00Z";
    assert_eq!(
        rate(plan, &usage("USD", instant, instant, &json!({}))).expect_err("empty").to_string(),
        "the period is empty; nothing can be rated over it"
    );
    // In force for no time within a period: nothing of the fee.
    let nothing = json!({ "currency": "USD", "period": { "from": instant, "to": "2026-02-01T00:00:00Z" },
        "in_force": { "from": "2026-01-10T00:00:00Z", "to": "2026-01-10T00:00:00Z" } });
    assert_eq!(rated(plan, &nothing.to_string()), ["0.00"]);
}

#[test]
fn a_leap_day_and_the_hours_of_a_clock_change_count() {
    let plan = |by: &str| format!("{{terms: {{proration: {by}}}, prices: [{{name: Fee, model: flat, amount: \"290\"}}]}}");
    let part = |period: [&str; 2], part: [&str; 2], zone: &str| {
        json!({ "currency": "USD", "time_zone": zone, "period": { "from": period[0], "to": period[1] },
            "in_force": { "from": part[0], "to": part[1] } })
        .to_string()
    };
    let february = ["2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"];
    assert_eq!(rated(&plan("day"), &part(february, ["2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"], "UTC")), ["10.00"]);
    // October in Berlin has 745 hours; its last week, 169 of them with the hour that comes twice.
    let october = ["2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"];
    let week = ["2026-10-24T22:00:00Z", "2026-10-31T23:00:00Z"];
    assert_eq!(rated(&plan("second"), &part(october, week, "Europe/Berlin")), ["65.79"]);
    assert_eq!(rated(&plan("day"), &part(october, week, "Europe/Berlin")), ["65.48"]);
    assert_eq!(rated(&plan("none"), &part(october, week, "Europe/Berlin")), ["290.00"]);
}

#[test]
fn percentages_of_sums_and_events() {
    let plan =
        "{prices: [{name: P, model: percentage, meter: volume, rate: \"0.029\", fixed: \"0.30\", included: 100, included_events: 2}]}";
    // 2.9 % of (1,250 - 100) and 0.30 for 5 - 2 events: 33.35 + 0.90.
    let events = json!({ "volume": { "events": ["10", "40", "200", "400", "600"] } });
    assert_eq!(rated(plan, &january("USD", &events)), ["34.25"]);
    // Each part is at least 0, independent of the other.
    assert_eq!(rated(plan, &january("USD", &json!({ "volume": { "events": ["5", "5", "5"] } }))), ["0.30"]);
    let refused = rate(plan, &january("USD", &json!({ "volume": { "value": "1000" } }))).expect_err("how many events?");
    assert_eq!(refused.to_string(), "price `P` is charged by event: its events must be given one by one");
}

#[test]
fn each_events_fee_is_held_between_its_bounds() {
    let plan = "{prices: [{name: P, model: percentage, meter: volume, rate: \"0.01\", fixed: \"0.05\", min_per_event: \"0.50\", max_per_event: 20}]}";
    // 0.15 -> 0.50; 0.85; 100.05 -> 20.
    assert_eq!(rated(plan, &january("USD", &json!({ "volume": { "events": ["10", "80", "10000"] } }))), ["21.35"]);
    let free = plan.replace("max_per_event: 20", "max_per_event: 20, included_events: 1");
    assert_eq!(rated(&free, &january("USD", &json!({ "volume": { "events": ["10", "80", "10000"] } }))), ["20.85"], "the first is free");
    let refused = rate(&plan.replace("max_per_event: 20", "included: 10"), &january("USD", &json!({}))).expect_err("refused").to_string();
    assert!(refused.contains("a part of the sum cannot be free; use `included_events`"), "{refused}");
}

#[test]
fn a_matrix_has_a_line_for_each_value() {
    let plan = "{prices: [{name: Calls, model: matrix, meter: requests, dimension: route, values: {\"GET /a\": \"0.015\", \"POST /a\": \"0.1\"}, default: \"0.001\"}]}";
    let by = json!({ "requests": { "by": { "GET /a": "101", "POST /a": "7", "GET /other": "1500" } } });
    let answer = rate(plan, &january("USD", &by)).expect("rates");
    let shown: Vec<_> = answer["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|l| format!("{} {}", l["name"].as_str().expect("text"), l["amount"].as_str().expect("text")))
        .collect();
    assert_eq!(shown, ["Calls: GET /a 1.52", "Calls: GET /other 1.50", "Calls: POST /a 0.70"]);
    assert_eq!(answer["total"], json!("3.72"));
    let strict = plan.replace(", default: \"0.001\"", "");
    assert_eq!(
        rate(&strict, &january("USD", &by)).expect_err("no default").to_string(),
        "price `Calls` has no unit price for the route `GET /other`; list it, or give a `default`"
    );
    let bounded = plan.replace("dimension:", "minimum: 5, dimension:");
    assert_eq!(rated(&bounded, &january("USD", &by)), ["1.52", "1.50", "0.70", "1.28"], "the bound is a line of its own");
}

#[test]
fn a_continued_period_bills_what_is_new() {
    let plan = "{prices: [{name: R, model: graduated, meter: requests, tiers: [{up_to: 10, unit_amount: 10}, {unit_amount: 1}]}]}";
    let next = json!({ "requests": { "value": "12", "prior": { "value": "9", "billed": "90" } } });
    let answer = rate(plan, &january("USD", &next)).expect("rates");
    assert_eq!((amounts(&answer), answer["lines"][0]["quantity"].as_str()), (vec!["12.00"], Some("3")));
}

#[test]
fn discounts_credits_and_tax_in_their_order() {
    let plan = "{tax: {rate: \"0.10\"}, prices: [{name: Fee, model: flat, amount: 100}, {name: R, model: per_unit, meter: requests, unit_amount: 1}]}";
    let usage = json!({ "currency": "USD", "period": { "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z" },
        "meters": { "requests": { "value": "50" } },
        "discounts": [{ "amount": "10" }, { "percent": "50", "prices": ["Fee"] }],
        "credits": [{ "amount": "30" }, { "amount": "5", "taxed": true }] });
    let answer = rate(plan, &usage.to_string()).expect("rates");
    // 150 - 50 = 100, - 10 = 90, - 30 = 60, + 6 tax, - 5 taxed before.
    assert_eq!((answer["tax"].as_str(), answer["total"].as_str()), (Some("6.00"), Some("61.00")));
}

#[test]
fn what_a_plan_includes_is_used_before_what_was_given() {
    let plan = "{terms: {credits: [{name: Later, amount: 5, priority: 2}, {name: First, amount: 10, prices: [R]}, {name: Units, meter: requests, units: 20}]}, prices: [{name: Fee, model: flat, amount: 100}, {name: R, model: per_unit, meter: requests, included: 5, unit_amount: 1}]}";
    let usage = json!({ "currency": "USD", "period": { "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z" },
        "meters": { "requests": { "value": "50" } }, "credits": [{ "amount": "7" }] });
    let answer = rate(plan, &usage.to_string()).expect("rates");
    // 5 are included and 20 prepaid: 25 are left; 10 of credits off them, then 5 and 7 off all.
    assert_eq!((amounts(&answer), answer["total"].as_str()), (vec!["100.00", "25.00"], Some("103.00")));
    assert_eq!(answer["lines"][1]["explanation"], json!("50 less 5 included leaves 45; 45 less 20 prepaid leaves 25; 25 × 1 = 25"));
}

#[test]
fn leaving_in_the_middle_previews_what_is_given_back() {
    let plan = "{prices: [{name: Fee, model: flat, amount: 31}, {name: R, model: per_unit, meter: requests, unit_amount: 1}]}";
    let answer = change(plan, &january("USD", &json!({ "requests": { "value": "4" } })), r#"{"at":"2026-01-11T00:00:00Z","to_plan":null}"#);
    assert_eq!(amounts(&answer.expect("rates")), ["-21.00", "4.00"]);
}
