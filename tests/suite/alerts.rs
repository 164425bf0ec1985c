//! Alerts: thresholds of allowance, units, money and the unusual, told once, by webhook and e-mail, whatever is killed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use farebox_billing::alerts::{self, Memory};
use farebox_billing::mails;
use farebox_core::config;
use farebox_core::mail::Mailer;
use farebox_core::{clock, workspace};
use farebox_portal::people::session::{Session, cookie_name};
use farebox_portal::people::{Role, Side};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::finance_mail::{ONE_AT_A_TIME, smtp};
use crate::harness::{LOCAL, Suite, Up, eventually, free_port};
use crate::hooks::Receiver;
use crate::metering_flow::{call, store_all};
use crate::tenant::Tenant;
use crate::walk::World;
use crate::webhooks::{answer, hook};

const SOON: Duration = Duration::from_secs(60);

/// A consumer on a plan that holds 100 requests and charges for more.
fn catalogue(workspace: &str, alerts: &str) -> String {
    let since = (clock::now() - TimeDelta::days(40)).format("%Y-%m-%dT00:00:00Z");
    format!(
        r#"workspace: {workspace}
currency: USD
time_zone: UTC
billing: {{close_by_hand: true}}
plans:
  - name: growth
    version: 1
    prices:
      - {{name: Requests, model: per_unit, meter: requests, included: "100", unit_amount: "0.5"}}
consumers:
  - {{name: initech, email: dev@initech.example, signed_up: {since}, subjects: [initech-prod], subscriptions: [{{plan: growth, from: {since}}}]}}
alerts: {alerts}
"#
    )
}

async fn apply(tenant: &Tenant, alerts: &str) -> (StatusCode, Value) {
    let body = catalogue(&tenant.workspace.name, alerts);
    answer(tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(body)).await
}

/// Requests of initech in the running minute, through the front door.
fn requests(count: usize) -> Value {
    let event = || {
        json!({ "specversion": "1.0", "type": "farebox.request.v1", "source": "edge", "id": uuid::Uuid::now_v7().to_string(), "time": clock::now(),
            "subject": "initech-prod", "data": { "api": "orders", "route": "GET /orders", "method": "GET", "status": 200 } })
    };
    (0..count).map(|_| event()).collect()
}

async fn send(tenant: &Tenant, count: usize, total: u64) {
    let posted =
        tenant.call(Method::POST, "/v1/events").json(&requests(count)).header("content-type", "application/cloudevents-batch+json");
    assert_eq!(posted.send().await.expect("an answer").status(), StatusCode::ACCEPTED);
    eventually("the requests are counted", SOON, || async { (tenant.calls().await == total).then_some(()) }).await;
}

async fn firings(tenant: &Tenant) -> Vec<Value> {
    tenant.get("/api/v1/alerts/firings").await["data"].as_array().expect("a list").clone()
}

/// Judges the workspace in this process, as one that has just started; how often something was told.
async fn judge(suite: &Suite, tenant: &Tenant) -> usize {
    let workspace = workspace::by_id(&mut suite.app.pg.acquire().await.expect("PostgreSQL"), &tenant.workspace.id).await;
    let workspace = workspace.expect("PostgreSQL").expect("the workspace");
    alerts::evaluate(&suite.app, &workspace, &mut Memory::default()).await.expect("judged")
}

pub async fn an_allowance_is_told_once_and_again_when_raised(suite: &Suite) {
    let (receiver, tenant) = (Receiver::start().await, Tenant::new(suite, "alerts").await);
    let alert = r#"[{name: nearly used, kind: allowance, threshold: "80", emails: [ops@acme.example], mail_consumer: true}]"#;
    let (status, applied) = apply(&tenant, alert).await;
    assert_eq!(status, StatusCode::OK, "{applied}");
    let (_, secret) = hook(&tenant, &receiver.url("/alerts"), &["alert.fired"]).await;
    send(&tenant, 79, 79).await;
    assert_eq!((judge(suite, &tenant).await, firings(&tenant).await.len()), (0, 0), "79 of 100 are not 80 %");

    send(&tenant, 6, 85).await;
    let told = receiver.until("/alerts", 1).await;
    assert!(told[0].is_signed_with(&secret));
    let data = &told[0].body["data"];
    assert_eq!(
        (&data["alert"]["name"], &data["consumer"]["name"], &data["threshold"]),
        (&json!("nearly used"), &json!("initech"), &json!("80"))
    );
    assert_eq!((&data["value"], &data["against"]), (&json!("85"), &json!("100")));
    assert!(data["detail"].as_str().expect("a sentence").starts_with("85 of 100 requests are used, 85 % of what the plan holds"), "{data}");
    assert_eq!(judge(suite, &tenant).await, 0, "a process that has just started does not tell it again");
    assert_eq!(firings(&tenant).await.len(), 1);

    // Both addresses, once.
    let _turn = ONE_AT_A_TIME.lock().await;
    let (server, mailbox) = smtp().await;
    let config = config::Mail { smtp_url: format!("smtp://{server}"), from: "Acme <alerts@acme.example>".to_owned() };
    let mailer = Mailer::new(&config).expect("a right configuration").expect("a server");
    let mails = async || {
        mails::run_once(&suite.app, &mailer).await.expect("sent");
        let mut to: Vec<_> = mailbox.lock().await.drain(..).filter(|mail: &String| mail.contains("85 of 100")).collect();
        to.sort_by_key(|mail| mail.lines().find(|line| line.starts_with("To: ")).map(str::to_owned));
        to
    };
    let sent = mails().await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent[0].contains("To: dev@initech.example") && sent[1].contains("To: ops@acme.example"), "{sent:?}");
    assert!(sent[1].contains("Subject: Alert nearly used: initech") && sent[0].contains("/usage/alerts"), "{sent:?}");
    assert!(mails().await.is_empty(), "once");

    // Raised: told again when that is reached. Lowered: not.
    let id = tenant.get("/api/v1/alerts").await["data"][0]["id"].as_str().expect("an id").to_owned();
    let put = async |threshold: &str| {
        let body = json!({ "name": "nearly used", "kind": "allowance", "threshold": threshold });
        let (status, answer) = answer(tenant.call(Method::PUT, &format!("/api/v1/alerts/{id}")).json(&body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    };
    put("90").await;
    assert_eq!((judge(suite, &tenant).await, firings(&tenant).await.len()), (0, 1));
    send(&tenant, 5, 90).await;
    receiver.until("/alerts", 2).await;
    put("50").await;
    assert_eq!(judge(suite, &tenant).await, 0, "what is lowered was told");
    let thresholds: Vec<_> = firings(&tenant).await.iter().map(|f| (f["threshold"].clone(), f["value"].clone())).collect();
    assert_eq!(thresholds, [(json!("90"), json!("90")), (json!("80"), json!("85"))]);
    let ids: std::collections::BTreeSet<_> = receiver.arrived("/alerts").into_iter().map(|a| a.id).collect();
    assert_eq!(ids.len(), 2);
}

/// `count` requests of initech at an instant, stored as metering stores them.
async fn past(suite: &Suite, tenant: &Tenant, at: DateTime<Utc>, count: usize) {
    let rows: Vec<_> = (0..count).map(|_| call(&tenant.workspace.id, "initech-prod", at)).collect();
    store_all(&suite.app, &rows).await;
}

pub async fn money_units_and_unusual_hours_are_told(suite: &Suite) {
    let tenant = Tenant::new(suite, "kinds").await;
    assert_eq!(apply(&tenant, "[]").await.0, StatusCode::OK);
    // The running hour, by which all is judged, must not end on the way.
    let left = 60 - clock::now().minute();
    let now = if left > 3 { clock::now() } else { clock::now() - TimeDelta::minutes(10) };
    for week in 1..=4 {
        past(suite, &tenant, now - TimeDelta::weeks(week), 50).await;
    }
    past(suite, &tenant, now, 149).await;
    let alerts = r#"[{name: many, kind: usage, meter: requests, threshold: "150"}, {name: dear, kind: spend, threshold: "25"},
        {name: dear in euro, kind: spend, threshold: "1", currency: EUR},
        {name: odd, kind: anomaly, meter: requests, threshold: "3", at_least: "100"}, {name: very odd, kind: anomaly, meter: requests, threshold: "4", at_least: "100"}]"#;
    let (status, applied) = apply(&tenant, alerts).await;
    assert_eq!(status, StatusCode::OK, "{applied}");
    judge(suite, &tenant).await;
    let names = async || {
        let mut told: Vec<_> = firings(&tenant).await.iter().map(|f| f["name"].as_str().expect("a name").to_owned()).collect();
        told.sort();
        told
    };
    // Weeks of this month are part of its period; so many are sure, by the calendar.
    let month = now.format("%Y-%m").to_string();
    let earlier = (1..=4).filter(|week| (now - TimeDelta::weeks(*week)).format("%Y-%m").to_string() == month).count();
    let used = 149 + 50 * earlier;
    let mut expected = Vec::new();
    if used >= 150 {
        // (used - 100 included) × 0.50
        expected.extend(["dear".to_owned(), "many".to_owned()]);
    }
    assert_eq!(names().await, expected, "149 is not three times 50, and with {used} the month costs {}", (used - 100) / 2);
    past(suite, &tenant, now, 1).await;
    eventually("an hour with three times as much is told", SOON, || async {
        judge(suite, &tenant).await;
        (names().await == ["dear", "many", "odd"]).then_some(())
    })
    .await;
    let odd = firings(&tenant).await.into_iter().find(|f| f["name"] == "odd").expect("told");
    assert_eq!((&odd["value"], &odd["threshold"]), (&json!("150"), &json!("3")));
    assert!(odd["detail"].as_str().expect("a sentence").ends_with("where the same hour of past weeks had 50 on average"), "{odd}");
    // Amounts are told only to whoever may know them.
    let reader = tenant.token_with(suite, &[farebox_core::auth::Scope::Read]).await;
    let seen = answer(tenant.anonymous(Method::GET, "/api/v1/alerts/firings").header("x-farebox-token", &reader)).await.1;
    assert_eq!(seen["data"].as_array().expect("a list").len(), 2, "{seen}");
    assert!(seen["data"].as_array().expect("a list").iter().all(|f| f["kind"] != "spend"));
}

pub async fn wrong_alerts_are_refused_and_the_catalogue_has_them(suite: &Suite) {
    let tenant = Tenant::new(suite, "rules").await;
    let alerts = r#"[{name: big, kind: spend, threshold: "500", plan: growth, emails: [cfo@acme.example]},
        {name: initech is odd, kind: anomaly, meter: calls, threshold: "5", consumer: initech}]"#;
    let (status, applied) = apply(&tenant, alerts).await;
    assert_eq!(status, StatusCode::OK, "{applied}");
    let again = apply(&tenant, alerts).await.1;
    assert_eq!(again["changes"], json!([]), "the same file changes nothing");
    let file = tenant.call(Method::GET, "/api/v1/catalog").send().await.expect("an answer").text().await.expect("a file");
    let same = answer(tenant.call(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(file.clone())).await.1;
    assert_eq!(same["changes"], json!([]), "{file}");
    let raised = apply(&tenant, &alerts.replace("\"500\"", "\"600\"")).await.1;
    assert_eq!(raised["changes"], json!([{ "action": "change", "what": "alert big" }]));

    for (alert, says) in [
        (r#"[{name: x, kind: allowance, threshold: "80", meter: requests}]"#, "alerts[0].meter"),
        (r#"[{name: x, kind: usage, threshold: "80"}]"#, "alerts[0].meter"),
        (r#"[{name: x, kind: some, threshold: "80"}]"#, "alerts[0].kind"),
        (r#"[{name: x, kind: usage, meter: requests, threshold: "many"}]"#, "alerts[0].threshold"),
        (r#"[{name: x, kind: anomaly, meter: requests, threshold: "1"}]"#, "alerts[0].threshold"),
        (r#"[{name: x, kind: spend, threshold: "1", emails: [nobody]}]"#, "alerts[0].emails"),
        (r#"[{name: x, kind: spend, threshold: "1"}, {name: x, kind: spend, threshold: "2"}]"#, "alerts[1].name"),
        (r#"[{name: x, kind: spend, threshold: "1", consumer: nobody}]"#, "there is no such consumer"),
        (r#"[{name: x, kind: usage, meter: unheard, threshold: "1"}]"#, "there is no meter `unheard`"),
    ] {
        let (status, problem) = apply(&tenant, alert).await;
        assert!(status.is_client_error() && problem.to_string().contains(says), "{alert}: {status} {problem}");
    }
    let post = async |body: Value| answer(tenant.call(Method::POST, "/api/v1/alerts").json(&body)).await;
    for (body, pointer) in [
        (json!({ "name": "", "kind": "spend", "threshold": "1" }), "/name"),
        (json!({ "name": "y", "kind": "spend", "threshold": "1.001" }), "/threshold"),
        (json!({ "name": "y", "kind": "spend", "threshold": "0" }), "/threshold"),
        (json!({ "name": "y", "kind": "spend", "threshold": "1", "currency": "XXY" }), "/currency"),
        (json!({ "name": "y", "kind": "usage", "meter": "requests", "threshold": "1", "plan": "none" }), "/plan"),
        (json!({ "name": "y", "kind": "allowance", "threshold": "80", "at_least": "5" }), "/at_least"),
    ] {
        let (status, problem) = post(body.clone()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{body}: {problem}");
    }
    let (status, problem) = post(json!({ "name": "big", "kind": "allowance", "threshold": "80" })).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:farebox:problem:alert-exists")));
    let id = tenant.get("/api/v1/alerts").await["data"][0]["id"].as_str().expect("an id").to_owned();
    let about_else = json!({ "name": "big", "kind": "allowance", "threshold": "80" });
    let (status, problem) = answer(tenant.call(Method::PUT, &format!("/api/v1/alerts/{id}")).json(&about_else)).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:farebox:problem:alert-about-else")));
    let removed = tenant.call(Method::DELETE, &format!("/api/v1/alerts/{id}")).send().await.expect("an answer");
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let logged: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_log WHERE workspace_id = $1 AND action = 'alert.remove' AND target = $2")
            .bind(tenant.workspace.id.as_str())
            .bind(&id)
            .fetch_one(&suite.app.pg)
            .await
            .expect("PostgreSQL");
    assert_eq!(logged, 1);
}

/// The whole system dies before the decision is committed, after it, and after the delivery was sent: one alert, and
/// deliveries of one id.
pub async fn killed_between_decision_and_delivery() {
    const SIGABRT: i32 = 6;
    let receiver = Receiver::start().await;
    let variables = |point: &str| [("FAREBOX_KILL_AT", point.to_owned()), ("FAREBOX_WEBHOOKS__NETWORKS", LOCAL.to_owned())];
    let mut up = Up::start_with("alerts", free_port().expect("a port"), &variables("alert.before_commit")).await.expect("it starts");
    let instance = up.instance().expect("credentials");
    let (http, base) = (reqwest::Client::new(), up.credentials().expect("credentials").base_url);
    let token = up.credentials().expect("credentials").admin_token;
    let post = async |path: &str, kind: &str, body: String| {
        let answer =
            http.post(format!("{base}{path}")).header("x-farebox-token", &token).header("content-type", kind).body(body).send().await;
        let answer = answer.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.expect("a body"));
    };
    let alerts = r#"[{name: nearly used, kind: allowance, threshold: "80"}]"#;
    post("/api/v1/catalog", "application/yaml", catalogue("acme/test", alerts)).await;
    post("/api/v1/webhooks", "application/json", json!({ "url": receiver.url("/alerts"), "events": ["alert.fired"] }).to_string()).await;
    post("/v1/events", "application/cloudevents-batch+json", requests(80).to_string()).await;
    assert_eq!(up.until_dead().await, Some(SIGABRT), "before the decision is committed");
    assert!(receiver.arrived("/alerts").is_empty());
    for (point, arrived) in [("alert.decided", 0), ("webhook.before", 0), ("webhook.sent", 1)] {
        up.start_again(&variables(point)).expect("it starts");
        assert_eq!(up.until_dead().await, Some(SIGABRT), "{point}");
        assert_eq!(receiver.arrived("/alerts").len(), arrived, "{point}");
    }
    up.start_again(&variables("")).expect("it starts");
    up.wait_until_ready().await.expect("it is ready");
    let told = receiver.until("/alerts", 2).await;
    assert!(told.iter().all(|arrived| arrived.id == told[0].id && arrived.body == told[0].body), "{told:?}");
    let firings = instance.get("/api/v1/alerts/firings").await.expect("the firings");
    assert_eq!(firings["data"].as_array().expect("a list").len(), 1, "{firings}");
    up.stop_and_remove().await;
}

/// A consumer's own alerts through its portal's page: set, listed, removed; nobody else's business.
pub async fn a_consumer_sets_its_own(suite: &Suite) {
    let world = World::new(suite, "own-alerts").await;
    let session = world.sign_in(suite, Role::ConsumerMember, Some(&world.consumer)).await;
    let stranger = world.sign_in(suite, Role::ConsumerAdmin, Some(&world.other_consumer)).await;
    let ask = async |by: &Session, method: Method, path: &str, form: &[(&str, &str)]| {
        let cookie = format!("{}={}", cookie_name(Side::Portal, false), by.token.reveal());
        let mut request = world.page(method.clone(), path).header("cookie", cookie).header("sec-fetch-site", "same-origin");
        if method == Method::POST {
            let csrf = by.csrf();
            let form: Vec<_> = form.iter().copied().chain([("csrf", csrf.as_str())]).collect();
            request = request.form(&form);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("a page"))
    };
    let (status, page) = ask(&session, Method::POST, "/usage/alerts", &[("kind", "spend"), ("threshold", "much")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(page.contains("Enter a number, such as 80.") && page.contains("value=\"much\""), "{page}");
    let (status, _) = ask(&session, Method::POST, "/usage/alerts", &[("kind", "spend"), ("threshold", "500")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (_, page) = ask(&session, Method::GET, "/usage/alerts", &[]).await;
    assert!(page.contains("$500 on the next invoice"), "{page}");
    let (_, usage) = ask(&session, Method::GET, "/usage", &[]).await;
    assert!(usage.contains("You are told at $500 on the next invoice"), "{usage}");
    assert_eq!(world.tenant.get("/api/v1/alerts").await["data"], json!([]), "it is not the provider's");
    let own = alerts::list_own(&mut suite.app.pg.acquire().await.expect("PostgreSQL"), &world.tenant.workspace.id, &world.consumer).await;
    let path = format!("/usage/alerts/{}/remove", own.expect("listed")[0].id);
    assert_eq!(ask(&stranger, Method::POST, &path, &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask(&session, Method::POST, &path, &[]).await.0, StatusCode::SEE_OTHER);
    assert!(ask(&session, Method::GET, "/usage/alerts", &[]).await.1.contains("Nothing yet."));
}
