//! Invoices and reminders by e-mail, taken by a mail server of the test's own.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono::TimeDelta;
use farebox_billing::{dunning, mails};
use farebox_core::mail::Mailer;
use farebox_core::{clock, config};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::finance::{close, issued};
use crate::harness::Suite;
use crate::tenant::Tenant;

/// A run sends what is queued of every workspace: tests that count mails come one after the other.
pub static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Mails as they came over the wire.
pub type Mailbox = Arc<Mutex<Vec<String>>>;

/// A server that speaks as much SMTP as a client needs, and keeps what it is given.
pub async fn smtp() -> (SocketAddr, Mailbox) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let (address, mailbox) = (listener.local_addr().expect("an address"), Mailbox::default());
    let kept = mailbox.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, kept.clone()));
        }
    });
    (address, mailbox)
}

async fn converse(stream: TcpStream, mailbox: Mailbox) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 test\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer: &[u8] = match line.split(' ').next().unwrap_or_default() {
            "EHLO" => b"250-test\r\n250 8BITMIME\r\n",
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    mail.push_str(&line);
                    mail.push('\n');
                }
                mailbox.lock().await.push(mail);
                b"250 kept\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        writer.write_all(answer).await?;
    }
    Ok(())
}

/// An invoice is mailed once with its PDF; reminders follow the policy, only the last of those that are due is sent, and a
/// pause holds them.
pub async fn invoices_and_reminders_are_mailed_once(suite: &Suite) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (server, mailbox) = smtp().await;
    let config = config::Mail { smtp_url: format!("smtp://{server}"), from: "Acme Billing <billing@acme.example>".to_owned() };
    let mailer = Mailer::new(&config).expect("a right configuration").expect("a server");
    let tenant = Tenant::new(suite, "mails").await;
    let set = tenant.call(Method::PUT, "/api/v1/dunning").json(&json!({ "remind_after_days": [3, 7], "mail_invoices": true }));
    assert_eq!(set.send().await.expect("an answer").status(), StatusCode::OK);
    close(suite, &tenant).await;
    let invoices = issued(&tenant, "initech").await;
    let numbers: Vec<_> = invoices.iter().map(|invoice| invoice["number"].as_str().expect("a number").to_owned()).collect();

    // What was sent about those invoices, by the workspace's clock so many days from now.
    let sent = async |days: i64| {
        sqlx::query("UPDATE workspaces SET test_mode = true, clock_ahead_s = $2 WHERE id = $1")
            .bind(tenant.workspace.id.as_str())
            .bind(TimeDelta::days(days).num_seconds())
            .execute(&suite.app.pg)
            .await
            .expect("ahead");
        mails::run_once(&suite.app, &mailer).await.expect("sent");
        let mails: Vec<String> = mailbox.lock().await.drain(..).collect();
        let mut subjects = Vec::new();
        for mail in mails {
            let subject = mail.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject").to_owned();
            if numbers.iter().any(|number| subject.contains(number.as_str())) {
                let whole =
                    mail.contains("To: dev@initech.example") && mail.contains("application/pdf") && mail.contains("Message-ID: <inv_");
                assert!(whole, "{}", mail.chars().take(2000).collect::<String>());
                subjects.push(subject);
            }
        }
        subjects.sort();
        subjects
    };
    let subjects =
        |before: &str, after: &str| numbers.iter().map(|number| format!("{before} {number} from Acme Ltd{after}")).collect::<Vec<_>>();
    let none = Vec::<String>::new();
    assert_eq!(sent(0).await, subjects("Invoice", ""));
    assert_eq!(sent(0).await, none, "once");
    // Due after 14 days: on day 22 the reminders of days 3 and 7 have both come.
    let mut conn = suite.app.pg.acquire().await.expect("PostgreSQL");
    let consumer = invoices[0]["consumer"].as_str().expect("an id").parse().expect("an id");
    let (ws, until) = (&tenant.workspace.id, clock::now() + TimeDelta::days(30));
    dunning::pause(&mut conn, ws, &consumer, until, "pays on the 20th").await.expect("paused");
    assert_eq!(sent(22).await, none, "a pause holds");
    assert!(dunning::resume(&mut conn, ws, &consumer).await.expect("resumed"));
    assert_eq!(sent(22).await, subjects("Reminder: invoice", " is not paid"));
    assert_eq!(sent(23).await, none, "the earlier reminder is not sent after the later");
}
