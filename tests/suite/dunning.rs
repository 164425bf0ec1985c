//! A card that is refused: dunning begins by itself and ends when it is paid.

use std::time::Duration;

use farebox_billing::dunning::{self, Policy, failed};
use farebox_billing::invoices::State;
use farebox_billing::stripe::endpoint::register_webhook;
use farebox_billing::stripe::settings;
use farebox_billing::{mails, overdue};
use farebox_core::config;
use farebox_core::mail::Mailer;
use farebox_core::workspace;

use crate::finance_mail::{ONE_AT_A_TIME, smtp};
use crate::harness::{Suite, eventually};
use crate::stripe::Shop;

const IN_TIME: Duration = Duration::from_secs(60);

/// The first refusal opens a case, mails the payer and refuses calls as the policy says; a new card is charged at once, which
/// ends all of it.
pub async fn a_refused_card_starts_dunning(suite: &Suite) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (server, mailbox) = smtp().await;
    let config = config::Mail { smtp_url: format!("smtp://{server}"), from: "Acme Billing <billing@acme.example>".to_owned() };
    let mailer = Mailer::new(&config).expect("a right configuration").expect("a server");
    let shop = Shop::open(&suite.app, "dunned").await;
    let ws = &shop.workspace;
    shop.connect().await;
    register_webhook(&suite.app, ws).await.expect("registered").expect("reachable");
    shop.give_this_card("4000000000000341").await;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    dunning::set_policy(&mut conn, ws, &Policy { restrict_after_days: Some(0), ..Policy::default() }).await.expect("set");
    drop(conn);
    let cases = async || {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
        failed::list(&mut conn, ws, None).await.expect("PostgreSQL")
    };
    let restricted = async || {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
        overdue::all(&mut conn)
            .await
            .expect("PostgreSQL")
            .into_iter()
            .find(|owes| owes.workspace == *ws)
            .and_then(|owes| owes.restricted_from)
    };
    let subjects = async || {
        mails::run_once(&suite.app, &mailer).await.expect("sent");
        let mails: Vec<String> = mailbox.lock().await.drain(..).collect();
        let subject = |mail: &String| mail.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject").to_owned();
        mails.iter().map(subject).filter(|subject| subject.contains("T-")).collect::<Vec<_>>()
    };

    let id = shop.issue(0).await;
    let number = shop.invoice(&id).await.number.expect("a number");
    let open = eventually("the case", IN_TIME, || async { cases().await.pop() }).await;
    assert_eq!((open.invoice, open.attempts, open.due.minor, open.closed_at), (id.clone(), 1, 7299, None));
    assert!(open.next_attempt.is_some(), "Stripe tries again in some days");
    assert_eq!(restricted().await, Some(open.opened_at), "calls are refused from the first failure on");
    assert_eq!(subjects().await.iter().filter(|subject| subject.contains(&number)).count(), 1);
    assert_eq!(subjects().await.iter().filter(|subject| subject.contains(&number)).count(), 0, "once a day of the policy");

    shop.give_card().await;
    shop.when_paid(&id).await;
    let closed = cases().await.pop().expect("it stays on record");
    assert_eq!((closed.outcome.as_deref(), closed.due.minor, closed.restricted_from), (Some("recovered"), 0, None));
    assert_eq!(restricted().await, None, "calls pass again");
    assert_eq!(shop.invoice(&id).await.state, State::Paid);
    let thanked = subjects().await;
    assert!(thanked.iter().any(|subject| subject.starts_with("Paid: invoice") && subject.contains(&number)), "{thanked:?}");
}

/// With a test key Stripe's clock goes with the workspace's: a card that is refused is tried again after three days there, which
/// are a second here.
pub async fn stripes_test_clock_goes_with_ours(suite: &Suite) {
    let shop = Shop::open(&suite.app, "ahead").await;
    let ws = &shop.workspace;
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    shop.connect().await;
    let refused = settings::set_test_clocks(&mut conn, ws, true).await.expect_err("not in test mode");
    assert!(refused.to_string().contains("test mode"), "{refused}");
    sqlx::query("UPDATE workspaces SET test_mode = true WHERE id = $1").bind(ws.as_str()).execute(&mut *conn).await.expect("PostgreSQL");
    settings::set_test_clocks(&mut conn, ws, true).await.expect("set");
    drop(conn);
    register_webhook(&suite.app, ws).await.expect("registered").expect("reachable");
    shop.give_this_card("4000000000000341").await;
    let id = shop.issue(0).await;
    let attempts = async || {
        let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
        failed::list(&mut conn, ws, None).await.expect("PostgreSQL").first().map_or(0, |case| case.attempts)
    };
    eventually("the first attempt", IN_TIME, || async { Some(attempts().await).filter(|n| *n == 1) }).await;
    let clocks = shop.at_stripe("test_helpers/test_clocks").await;
    assert_eq!(clocks.len(), 1, "one customer, one clock");
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    assert!(workspace::advance_clock(&mut conn, ws, 4 * 86_400).await.expect("PostgreSQL"));
    drop(conn);
    eventually("the second attempt", IN_TIME, || async { Some(attempts().await).filter(|n| *n == 2) }).await;
    let there = &shop.at_stripe("invoices").await[0];
    assert_eq!((there["attempt_count"].as_i64(), there["status"].as_str()), (Some(2), Some("open")));
    assert_eq!(shop.invoice(&id).await.state, State::Issued);
}
