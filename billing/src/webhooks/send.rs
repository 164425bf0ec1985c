//! One attempt: signed, within bounds, and what its answer means.

use std::error::Error;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox_core::config;
use farebox_core::seal::Revealed;
use reqwest::{Client, StatusCode, header, redirect};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use super::guard::{Guard, NotPublic};

const CONNECT: Duration = Duration::from_secs(5);
/// From the first byte sent to the head of the answer. Its body is not read.
const ANSWER: Duration = Duration::from_secs(15);
/// The longest that an answer's `Retry-After` is heeded.
const LONGEST_WISH: TimeDelta = TimeDelta::hours(1);

/// Calls addresses that workspaces name; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    guard: Guard,
}

/// What is sent, and to whom.
#[derive(Debug)]
pub struct Letter<'a> {
    pub url: &'a str,
    /// The event's: the same at each attempt.
    pub id: &'a str,
    pub body: &'a str,
    /// One, or two during a rotation.
    pub secrets: &'a [Revealed],
}

/// How an attempt went.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    Taken(u16),
    /// 410: the address wants nothing any more.
    Unwanted,
    /// Worth another attempt. `after`: not before, as the answer says.
    Failed {
        status: Option<u16>,
        why: String,
        after: Option<TimeDelta>,
    },
}

impl Sender {
    pub fn new(config: &config::Webhooks) -> Result<Self, reqwest::Error> {
        let guard = Guard::new(&config.networks);
        let client = Client::builder()
            .user_agent("Farebox-Webhooks/1")
            .redirect(redirect::Policy::none())
            // A proxy would resolve names by itself.
            .no_proxy()
            .dns_resolver(guard.clone())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .build()?;
        Ok(Self { client, guard })
    }

    /// What is wrong with an address, as far as can be told before it is called.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let parsed: Url = url.parse().map_err(|_| "must be an address such as https://hooks.example.com/farebox".to_owned())?;
        if url.len() > 2000 {
            return Err("has at most 2000 characters".to_owned());
        }
        self.guard.check(&parsed).map_err(str::to_owned)
    }

    pub async fn send(&self, letter: &Letter<'_>, now: DateTime<Utc>) -> Attempt {
        let failed = |why: String| Attempt::Failed { status: None, why, after: None };
        // Numbers in an address are not resolved, so they are judged here; and the configuration may be another by now.
        if let Err(why) = self.check(letter.url) {
            return failed(format!("the address {why}"));
        }
        let signature = match signature(letter, now.timestamp()) {
            Ok(signature) => signature,
            Err(why) => return failed(format!("it cannot be signed: {why}")),
        };
        let request = self
            .client
            .post(letter.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, letter.id)
            .header(HEADER_WEBHOOK_TIMESTAMP, now.timestamp().to_string())
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(letter.body.to_owned());
        match request.send().await {
            Err(error) => failed(why(&error)),
            Ok(answer) if answer.status().is_success() => Attempt::Taken(answer.status().as_u16()),
            Ok(answer) if answer.status() == StatusCode::GONE => Attempt::Unwanted,
            Ok(answer) => {
                let status = answer.status();
                let wish = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let why = if status.is_redirection() {
                    format!("it answered {status}, and redirects are not followed; name the final address")
                } else {
                    format!("it answered {status}")
                };
                Attempt::Failed {
                    status: Some(status.as_u16()),
                    why,
                    after: wish.and_then(TimeDelta::try_seconds).map(|w| w.min(LONGEST_WISH)),
                }
            }
        }
    }
}

/// One signature for each secret: during a rotation either fits.
fn signature(letter: &Letter<'_>, timestamp: i64) -> Result<String, standardwebhooks::WebhookError> {
    let sign = |secret: &Revealed| Webhook::new(secret.reveal())?.sign(letter.id, timestamp, letter.body.as_bytes());
    Ok(letter.secrets.iter().map(sign).collect::<Result<Vec<_>, _>>()?.join(" "))
}

/// Why no answer came, for whoever owns the address; nothing that would tell them of a network that is not theirs.
fn why(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<NotPublic>() {
            return refused.to_string();
        }
        cause = inner.source();
    }
    let what = match error {
        e if e.is_timeout() => "it did not answer within 15 seconds",
        e if e.is_connect() => {
            "no connection can be made: the name does not resolve, nothing listens there, or its certificate is not trusted"
        }
        _ => "the connection broke before it answered",
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn letter<'a>(url: &'a str, secrets: &'a [Revealed]) -> Letter<'a> {
        Letter { url, id: "evt_1", body: r#"{"type":"webhook.test"}"#, secrets }
    }

    #[test]
    fn either_secret_of_a_rotation_fits() {
        let secrets: Vec<_> = ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
            .iter()
            .map(|secret| Revealed::new((*secret).to_owned()))
            .collect();
        let letter = letter("https://hooks.example.com", &secrets);
        let now = farebox_core::clock::now().timestamp();
        let mut headers = header::HeaderMap::new();
        for (name, value) in [
            (HEADER_WEBHOOK_ID, letter.id.to_owned()),
            (HEADER_WEBHOOK_TIMESTAMP, now.to_string()),
            (HEADER_WEBHOOK_SIGNATURE, signature(&letter, now).expect("signs")),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        for secret in &secrets {
            let verifier = Webhook::new(secret.reveal()).expect("a secret");
            verifier.verify(letter.body.as_bytes(), &headers).expect("fits");
            verifier.verify(b"{}", &headers).expect_err("another body does not fit");
        }
    }

    /// Neither a name nor a number that leads inside is connected to.
    #[tokio::test]
    async fn nothing_inside_is_connected_to() {
        farebox_core::tls::install();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let sender = Sender::new(&config::Webhooks::default()).expect("a client");
        for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433"] {
            let attempt = sender.send(&letter(&format!("https://{host}:{port}/"), &[]), farebox_core::clock::now()).await;
            let Attempt::Failed { status: None, why, .. } = attempt else { panic!("{host}: {attempt:?}") };
            assert!(why.contains("public address"), "{host}: {why}");
        }
        let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(nobody.is_err(), "someone connected");
    }
}
