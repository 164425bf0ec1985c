//! What-if through the front door: plans and drafts side by side, to the cent, as JSON, CSV, from the command and in the
//! console.

use std::process::Command;

use farebox_billing::subscriptions;
use farebox_portal::people::Role;
use farebox_portal::people::session::cookie_name;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::billing::{Business, month, utc};
use crate::harness::Suite;
use crate::tenant::Tenant;
use crate::walk::World;
use crate::webhooks::answer;

/// A last tier that ends: who used more cannot be priced.
const SMALL: &str = "name: small\nprices:\n  - {name: Platform, model: flat, amount: \"20\"}\n  - {name: Requests, model: graduated, meter: requests, tiers: [{up_to: 50, unit_amount: \"0.1\"}]}\n";

/// `growth` from August on for a, b and c; in August a has 100 requests, b none, and c 40, half of them after it went
/// to `scale` on the 17th.
async fn business(suite: &Suite) -> (Business, Tenant) {
    let app = &suite.app;
    let consumers = ["a", "b", "c"].map(|name| {
        format!("  - {{name: {name}, subjects: [{name}], subscriptions: [{{plan: growth, from: 2026-08-01T00:00:00+02:00}}]}}\n")
    });
    let business = Business::new(app, &consumers.concat()).await;
    let (mut first, mut second) = (month("2026-08"), month("2026-08"));
    first.end = utc("2026-08-16T22:00:00Z");
    second.start = first.end;
    let mut conn = app.pg.acquire().await.expect("PostgreSQL");
    let c = business.consumer(&mut conn, "c").await;
    let own = subscriptions::list(&mut conn, &business.ws, Some(&c), 1, "").await.expect("listed").remove(0);
    subscriptions::change_at(&mut conn, &business.ws, &own.id, "scale", first.end).await.expect("changed");
    drop(conn);
    business.send(app, "a", month("2026-08"), 100, 1).await;
    business.send(app, "c", first, 20, 1).await;
    business.send(app, "c", second, 20, 1).await;
    let tenant = Tenant::of(suite, &business.ws).await;
    (business, tenant)
}

fn question() -> Value {
    let draft = json!({
        "name": "growth", "version": 2,
        "prices": [
            { "name": "Platform", "model": "flat", "amount": 39 },
            { "name": "Requests", "model": "per_unit", "meter": "requests", "unit_amount": "0.25" },
        ],
    });
    json!({ "plans": ["growth@1", "scale", SMALL, draft], "from": "2026-08", "to": "2026-08" })
}

pub async fn plans_are_set_side_by_side(suite: &Suite) {
    let (business, tenant) = business(suite).await;
    let ask = |body: &Value| tenant.call(Method::POST, "/api/v1/what-if").json(body);
    let (status, found) = answer(ask(&question())).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let labels: Vec<_> = found["plans"].as_array().expect("plans").iter().map(|plan| plan["label"].clone()).collect();
    assert_eq!(labels, ["growth@1", "scale@1", "small (draft)", "growth (draft)"]);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<_> = found["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let on = row["on"].as_array().expect("a cell for each plan").iter();
            let on: Vec<_> = on.map(|on| format!("{} {}", text(&on["simulated"]), text(&on["difference"]))).collect();
            format!("{} {}: {}", text(&row["name"]), text(&row["actual"]), on.join(", "))
        })
        .collect();
    assert_eq!(
        rows,
        [
            // 49 × 16/31 and 10 × 0.5, then 99 × 15/31 and 20 × 0.1. On growth all the time nothing is cut: 49, 20 × 0.5 and
            // 10 × 0.125; on scale 99 and 40 × 0.1; small 20 and 4; the draft 39 and 10.
            "c 80.19: 60.25 -19.94, 103.00 22.81, 24.00 -56.19, 49.00 -31.19",
            "b 49.00: 49.00 0.00, 99.00 50.00, 20.00 -29.00, 39.00 -10.00",
            // 49, 20 × 0.5 and 70 × 0.125; 99 and 10; a hundred are beyond small's last tier; 39 and 25.
            "a 67.75: 67.75 0.00, 109.00 41.25, - -, 64.00 -3.75",
        ]
    );
    let totals: Vec<_> = found["plans"]
        .as_array()
        .expect("plans")
        .iter()
        .map(|plan| {
            let total = &plan["totals"][0];
            let [actual, simulated, difference] = ["actual", "simulated", "difference"].map(|name| text(&total[name]));
            format!("{actual} {simulated} {difference} {} {} {}", total["winners"], total["losers"], total["unchanged"])
        })
        .collect();
    let scale = "196.94 311.00 114.06 0 3 0";
    assert_eq!(totals, ["196.94 177.00 -19.94 1 0 2", scale, "129.19 44.00 -85.19 2 0 0", "196.94 152.00 -44.94 3 0 0"]);
    let refused = &found["plans"][2]["unpriced"];
    assert_eq!((refused.as_array().map(Vec::len), &refused[0]["name"]), (Some(1), &json!("a")));
    assert!(text(&refused[0]["detail"]).contains("100 is beyond its last tier, which ends at 50"), "{refused}");

    // One plan alone is the case of one column.
    let (_, one) =
        answer(tenant.call(Method::POST, "/api/v1/plans/scale/simulate").json(&json!({ "from": "2026-08", "to": "2026-08" }))).await;
    let total = &one["totals"][0];
    let [actual, simulated, difference] = ["actual", "simulated", "difference"].map(|name| text(&total[name]));
    assert_eq!(format!("{actual} {simulated} {difference} {} {} {}", total["winners"], total["losers"], total["unchanged"]), scale);

    // Only those asked about.
    let mut narrow = question();
    narrow["on_plan"] = json!("scale");
    let (_, found) = answer(ask(&narrow)).await;
    assert_eq!((found["rows"].as_array().map(Vec::len), &found["rows"][0]["name"]), (Some(1), &json!("c")));
    let b = business.consumer(&mut suite.app.pg.acquire().await.expect("PostgreSQL"), "b").await;
    narrow = question();
    narrow["consumers"] = json!([b]);
    let (_, found) = answer(ask(&narrow)).await;
    assert_eq!((found["rows"].as_array().map(Vec::len), &found["rows"][0]["name"]), (Some(1), &json!("b")));

    let file = ask(&question()).header("accept", "text/csv").send().await.expect("an answer").text().await.expect("a text");
    let lines: Vec<_> = file.lines().collect();
    assert_eq!(
        lines[0],
        "consumer_id,consumer,subscription,plans,currency,actual,growth@1,growth@1 difference,scale@1,scale@1 difference,small (draft),small (draft) difference,growth (draft),growth (draft) difference,not_priced"
    );
    assert!(lines[1].ends_with(",\"growth, scale\",USD,80.19,60.25,-19.94,103.00,22.81,24.00,-56.19,49.00,-31.19,"), "{}", lines[1]);
    assert!(lines[3].contains(",growth,USD,67.75,67.75,0.00,109.00,41.25,,,64.00,-3.75,\"small (draft): price `Requests`"), "{}", lines[3]);

    // From the command, a draft being a file.
    let draft = suite.data.join("small.yaml");
    std::fs::write(&draft, SMALL).expect("written");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
        command.env("FAREBOX_URL", &suite.credentials.base_url).env("FAREBOX_TOKEN", &tenant.token);
        let done = command.arg("what-if").args(arguments).args(["--from", "2026-08", "--to", "2026-08"]).output().expect("it runs");
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (done, said, _) = run(&["growth", draft.to_str().expect("a path")]);
    for part in ["small (draft)", "-85.19", "24.00 (-56.19)", "a on small (draft): price `Requests`"] {
        assert!(done && said.contains(part), "{part} in {said}");
    }
    let (done, said, _) = run(&["growth", "--csv", "-"]);
    assert!(done && said.contains(",80.19,60.25,-19.94,"), "{said}");
    let (done, _, said) = run(&["growth@7"]);
    assert!(!done && said.contains("`growth` has no version 7; it has 1"), "{said}");
}

pub async fn what_is_wrong_with_a_question_is_said_at_its_field(suite: &Suite) {
    let (_, tenant) = business(suite).await;
    let (at, other) = (["2026-08", "2026-08"], SMALL.replace("name: small\n", "name: small\nproduct: data\n"));
    let unknown = json!({ "prices": [{ "name": "Tokens", "model": "per_unit", "meter": "tokens", "unit_amount": "1" }] });
    let consumer = "con_00000000000000000000000000000000";
    for (plans, months, more, pointer) in [
        (json!([]), at, json!({}), "/plans"),
        (json!(["free", "growth", "scale", "free", "growth", "scale", "free"]), at, json!({}), "/plans"),
        (json!(["growth", "gold"]), at, json!({}), "/plans/1"),
        (json!(["growth@2"]), at, json!({}), "/plans/0"),
        (json!(["growth", "growth@1"]), at, json!({}), "/plans/1"),
        (json!(["growth", unknown]), at, json!({}), "/plans/1/prices/0/meter"),
        // Digit by digit: a number that JSON would make a binary fraction is refused, as in the catalogue.
        (
            json!(["growth", { "prices": [{ "name": "R", "model": "per_unit", "meter": "requests", "unit_amount": 0.25 }] }]),
            at,
            json!({}),
            "/plans/1",
        ),
        (json!(["growth", other]), at, json!({}), "/plans/1"),
        (json!(["growth"]), ["2026-08", "2026-07"], json!({}), "/to"),
        (json!(["growth"]), ["August", "2026-07"], json!({}), "/from"),
        (json!(["growth"]), ["2020-01", "2026-07"], json!({}), "/from"),
        (json!(["growth"]), at, json!({ "on_plan": "gold" }), "/on_plan"),
        (json!(["growth"]), at, json!({ "consumers": [consumer] }), "/consumers/0"),
    ] {
        let mut body = json!({ "plans": plans, "from": months[0], "to": months[1] });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, problem) = answer(tenant.call(Method::POST, "/api/v1/what-if").json(&body)).await;
        let found = (status, &problem["errors"][0]["pointer"]);
        assert_eq!(found, (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{body}: {problem}");
    }
    // Everything at once.
    let body = json!({ "plans": ["gold", unknown], "from": "2026-08", "to": "2026-08" });
    let (_, problem) = answer(tenant.call(Method::POST, "/api/v1/what-if").json(&body)).await;
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(2), "{problem}");
}

/// The same in the console: chosen, drafted, answered with its file, refused at its field.
pub async fn plans_are_compared_in_the_console(suite: &Suite) {
    let world = World::new(suite, "compared").await;
    let session = world.sign_in(suite, Role::Finance, None).await;
    let cookie = format!("{}={}", cookie_name(Role::Finance.side(), false), session.token.reveal());
    let send = async |method: Method, path: &str, fields: &[(&str, &str)]| {
        let csrf = session.csrf();
        let fields: Vec<_> = [("csrf", csrf.as_str())].iter().chain(fields).copied().collect();
        let sent = world.page(method, path).header("cookie", &cookie).form(&fields).send().await.expect("an answer");
        (sent.status(), sent.text().await.expect("text"))
    };
    let name = format!("{}-plan", world.mark);
    let published = format!("{name}@1");
    let (status, page) = send(Method::GET, "/console/what-if", &[]).await;
    assert!(status == StatusCode::OK && page.contains(&published) && !page.contains("In all"), "{page}");
    let (status, page) = send(Method::POST, "/console/what-if", &[]).await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && page.contains("Choose at least one plan, or write a draft."), "{page}");

    let draft = "name: cheaper\r\nprices: [{name: Platform, model: flat, amount: \"7000\"}]";
    let asked = [("plan", published.as_str()), ("draft", draft)];
    let (status, page) = send(Method::POST, "/console/what-if", &asked).await;
    // The plan began two months ago: of the three months that are over it was in force in two.
    for part in ["cheaper (draft)", "$15,555.54", "$14,000.00", "−$1,555.54", "no difference", "name: cheaper"] {
        assert!(status == StatusCode::OK && page.contains(part), "{part} in {page}");
    }
    let (status, file) = send(Method::POST, "/console/what-if.csv", &asked).await;
    assert!(status == StatusCode::OK && file.contains(",15555.54,15555.54,0.00,14000.00,-1555.54,"), "{file}");
    let (status, page) = send(Method::GET, &format!("/console/what-if?plan={name}&consumer={}", world.consumer), &[]).await;
    assert!(status == StatusCode::OK && page.contains("$15,555.54"), "{page}");

    for (field, value, said) in [
        (
            "draft",
            "name: cheaper\r\nprices: [{name: P, model: per_unit, meter: tokens, unit_amount: 1}]",
            "Line 2, prices[0].meter: there is no meter named `tokens`",
        ),
        ("plan", "gold", "There is no plan named `gold`"),
        ("on_plan", "gold", "There is no plan named `gold`"),
        ("consumer", "nobody", "There is no consumer named `nobody`"),
        ("to", "2000-01", "Must not be before `from`"),
    ] {
        let (status, page) = send(Method::POST, "/console/what-if", &[("plan", published.as_str()), (field, value)]).await;
        assert!(status == StatusCode::UNPROCESSABLE_ENTITY && page.contains(said), "{said} in {page}");
    }
}
