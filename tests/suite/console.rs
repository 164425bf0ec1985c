//! What the console says about the pipeline, on real engines.

use std::time::Duration;

use chrono::{DurationRound, TimeDelta};
use farebox_core::clock;
use farebox_portal::people::Role;
use farebox_portal::people::session::cookie_name;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::access_gap;
use crate::harness::{Suite, eventually};
use crate::walk::World;

const SOON: Duration = Duration::from_secs(20);

struct Console<'a> {
    world: &'a World,
    cookie: String,
    csrf: String,
}

impl<'a> Console<'a> {
    async fn open(suite: &Suite, world: &'a World) -> Self {
        let session = world.sign_in(suite, Role::Owner, None).await;
        let cookie = format!("{}={}", cookie_name(Role::Owner.side(), false), session.token.reveal());
        Self { world, cookie, csrf: session.csrf() }
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.world.page(Method::GET, path).header("cookie", &self.cookie).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.expect("text")
    }
}

/// A decision that was told of has no gap; one that was not is shown by its number, at its gateway and hour.
pub async fn decisions_are_set_against_events(suite: &Suite) {
    let world = World::new(suite, "witnesses").await;
    let edge = format!("{}-edge", world.mark);
    let decide = || async {
        let asked = world.tenant.call(Method::GET, &format!("/v1/decide/{edge}/orders")).send().await.expect("an answer");
        asked.headers().get("x-farebox-decision").and_then(|id| id.to_str().ok()).map(str::to_owned)
    };
    // A refused call is decided, and told of, too.
    let told = eventually("the gateway's token is known", SOON, decide).await;
    decide().await.expect("a decision that nobody tells of");
    let event = json!({
        "specversion": "1.0", "type": "farebox.request.v1", "source": edge, "id": "call-1", "time": farebox_core::clock::now(),
        "subject": "", "data": {"decision": told, "status": 401, "method": "GET", "answered_by": "gateway"},
    });
    let sent = world.tenant.call(Method::POST, "/v1/events").header("content-type", "application/cloudevents+json").body(event.to_string());
    assert_eq!(sent.send().await.expect("an answer").status(), StatusCode::ACCEPTED);

    let console = Console::open(suite, &world).await;
    eventually("two decisions and one event of them", SOON, || async {
        let file = console.get("/console/pipeline/decisions.csv").await;
        // Over the end of an hour there are two lines.
        let sum = |column: usize| -> i64 {
            let cells = file.lines().skip(1).filter_map(|line| line.split(',').nth(column));
            cells.filter_map(|cell| cell.parse::<i64>().ok()).sum()
        };
        (sum(2) == 2 && sum(3) == 1 && sum(4) == 1 && file.contains(&edge)).then_some(())
    })
    .await;
    assert!(console.get("/console/pipeline").await.contains("Two witnesses"));
}

/// A gap is looked into from its number, and billed with a reason; then it is shown as billed.
pub async fn a_gap_is_billed_with_a_reason(suite: &Suite) {
    let world = World::new(suite, "gap").await;
    let edge = format!("{}-edge", world.mark);
    let hour = (clock::now() - TimeDelta::hours(2)).duration_trunc(TimeDelta::hours(1)).expect("an hour");
    let at = [hour, hour + TimeDelta::minutes(30)];
    access_gap::decide(suite, &world.tenant.workspace.id, &edge, &world.consumer, &at).await;
    let console = Console::open(suite, &world).await;
    let link = eventually("the gap's number is a link", SOON, || async {
        let page = console.get("/console/pipeline").await;
        let found = page.split("href=\"").find(|part| part.starts_with("/console/pipeline/gap?"))?;
        Some(found.split('"').next()?.replace("&#38;", "&").replace("&amp;", "&"))
    })
    .await;
    let page = console.get(&link).await;
    assert!(page.contains("Bill 2 from decisions") && page.contains(&world.mark), "{page}");
    let bill = async |reason: &str| {
        let at = hour.to_rfc3339();
        let form = [("csrf", console.csrf.as_str()), ("source", &edge), ("hour", &at), ("reason", reason)];
        world.page(Method::POST, "/console/pipeline/gap").header("cookie", &console.cookie).form(&form).send().await.expect("an answer")
    };
    let refused = bill(" ").await;
    assert!(refused.status() == StatusCode::OK && refused.text().await.expect("text").contains("Not billed."), "without a reason");
    assert_eq!(bill("the log disk was full").await.status(), StatusCode::SEE_OTHER);
    eventually("it is shown as billed", SOON, || async {
        console.get("/console/pipeline").await.contains("2 billed from decisions").then_some(())
    })
    .await;
    assert!(console.get(&link).await.contains("Nothing of it can be billed"));
}

/// A credit note is made from an invoice by line, after a question; a form that is sent twice credits once; and it is voided
/// after another question.
pub async fn a_credit_note_is_made_from_an_invoice(suite: &Suite) {
    let world = World::new(suite, "crediting").await;
    let console = Console::open(suite, &world).await;
    let invoice = async || world.tenant.get(&format!("/api/v1/invoices/{}", world.invoice)).await;
    let before = invoice().await;
    let line = before["lines"][0]["id"].as_str().expect("a line").to_owned();
    let path = format!("/console/invoices/{}/credit", world.invoice);
    assert!(console.get(&format!("/console/invoices/{}", world.invoice)).await.contains(&path), "its page leads there");
    assert!(console.get(&path).await.contains(&line));
    let too_much = world.page(Method::GET, &format!("{path}/confirm?{line}=99999999")).header("cookie", &console.cookie);
    let too_much = too_much.send().await.expect("an answer");
    assert_eq!(too_much.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(too_much.text().await.expect("text").contains("which is left of"), "said at its line");

    let asked = console.get(&format!("{path}/confirm?{line}=100&reason=duplicate&memo=It+was+billed+twice.")).await;
    assert!(asked.contains("Credit $119.00 of"), "{asked}");
    let left = asked.split("name=\"left\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("what is left").to_owned();
    let form = async |path: &str, fields: &[(&str, &str)]| {
        let fields: Vec<_> = [("csrf", console.csrf.as_str())].iter().chain(fields).copied().collect();
        let sent = world.page(Method::POST, path).header("cookie", &console.cookie).form(&fields).send().await.expect("an answer");
        let to = sent.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or_default().to_owned();
        (sent.status(), to, sent.text().await.expect("text"))
    };
    let chosen = [(line.as_str(), "100"), ("reason", "duplicate"), ("memo", "It was billed twice.")];
    let (status, _, said) = form(&path, &chosen).await;
    assert!(status == StatusCode::OK && said.contains("Nothing was credited yet."), "no answer without the question: {said}");
    let answered: Vec<_> = chosen.iter().copied().chain([("left", left.as_str())]).collect();
    let (status, to, _) = form(&path, &answered).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, _, said) = form(&path, &answered).await;
    assert!(status == StatusCode::OK && said.contains("Nothing was credited yet."), "sent twice: {said}");
    let note = console.get(&to).await;
    for part in ["Billed twice", "It was billed twice.", "Less is to be paid", "$119.00"] {
        assert!(note.contains(part), "{part} in {note}");
    }
    let to = to.split('?').next().expect("an address");
    let id = to.rsplit('/').next().expect("an id");
    assert!(console.get("/console/credit-notes").await.contains(to) && console.get("/console/credit-notes.csv").await.contains(id));
    assert_eq!(invoice().await["credited"], "120.32", "with the one that was there");

    assert!(console.get(&format!("{to}/void")).await.contains("Void stays void."));
    assert_eq!(form(&format!("{to}/void"), &[]).await.0, StatusCode::SEE_OTHER);
    assert!(console.get(to).await.contains("It counts for nothing."));
    assert_eq!(invoice().await["credited"], before["credited"]);
}

/// A dead letter is found by its text and seen with its bytes; replayed unchanged it stays, after a fix it is let in.
pub async fn a_dead_letter_is_seen_and_replayed(suite: &Suite) {
    let world = World::new(suite, "letters").await;
    let console = Console::open(suite, &world).await;
    let edge = format!("{}-edge", world.mark);
    let old = json!({
        "specversion": "1.0", "type": "farebox.request.v1", "source": edge, "id": "from-long-ago", "time": "2025-01-01T00:00:00Z",
        "subject": format!("{}-subject", world.mark), "data": {"status": 200, "method": "GET"},
    });
    let sent = world
        .tenant
        .call(Method::POST, "/v1/events")
        .header("content-type", "application/cloudevents+json")
        .header("x-farebox-source", &edge);
    assert_eq!(sent.body(old.to_string()).send().await.expect("an answer").status(), StatusCode::BAD_REQUEST);
    let list = eventually("the letter is listed", SOON, || async {
        let page = console.get("/console/dead-letters?q=FROM-LONG").await;
        page.contains("from-long-ago").then_some(page)
    })
    .await;
    assert!(!list.contains("mark-bad"), "the search leaves others out");
    let id = list.split("/console/dead-letters/dl_").nth(1).and_then(|rest| rest.split('"').next()).expect("a link to it");
    let path = format!("/console/dead-letters/dl_{id}");
    assert!(console.get(&path).await.contains("Waits for a fix"));
    assert_eq!(console.get(&format!("{path}/body")).await, old.to_string());

    let replay = async || {
        let id = path.rsplit('/').next().expect("an id");
        let form = [("csrf", console.csrf.as_str()), ("id", id)];
        let sent = world.page(Method::POST, "/console/dead-letters/replay").header("cookie", &console.cookie).form(&form);
        let answer = sent.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let to = answer.headers()["location"].to_str().expect("text").to_owned();
        console.get(&to).await
    };
    assert!(replay().await.contains("0 of 1 event let in"));
    // The fix: this source may deliver history.
    sqlx::query("UPDATE sources SET backfill = true WHERE id = $1")
        .bind(&world.source)
        .execute(&suite.app.pg)
        .await
        .expect("PostgreSQL answers");
    assert!(replay().await.contains("1 of 1 event let in"));
    eventually("it is resolved", SOON, || async { console.get(&path).await.contains("Let in by a replay").then_some(()) }).await;
}
