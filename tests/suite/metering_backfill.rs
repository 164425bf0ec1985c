//! A backfill that is killed, at each of its steps, goes on after the restart: each event once, nothing sent again.

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farebox::instance::Instance;
use farebox_core::config::Config;
use farebox_core::{App, clock};
use futures::future::join_all;
use rdkafka::producer::FutureRecord;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Up, eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(90);
const SIGABRT: i32 = 6;
/// A minute each: more than two parts of a commit.
const MINUTES: i64 = 4_500;
/// Messages of the topic: more than are collected together.
const MESSAGES: i64 = 6_000;

/// Too old to be taken as they come.
fn start() -> DateTime<Utc> {
    DateTime::from_timestamp((clock::now() - TimeDelta::days(90)).timestamp().div_euclid(86_400) * 86_400, 0).expect("in range")
}

fn event(source: &str, n: i64, at: DateTime<Utc>) -> String {
    json!({ "specversion": "1.0", "id": n.to_string(), "source": source, "type": "farebox.request.v1", "time": at, "subject": "acme-prod",
        "data": { "route": "GET /orders", "status": 200 } })
    .to_string()
}

fn lines(numbers: Range<i64>) -> String {
    numbers.map(|n| event("old", n, start() + TimeDelta::minutes(n)) + "\n").collect()
}

struct Job {
    instance: Instance,
    path: String,
}

impl Job {
    async fn begin(instance: Instance, new: Value) -> Self {
        let job = instance.json(instance.request(Method::POST, "/api/v1/backfills").json(&new)).await.expect("a job");
        let path = format!("/api/v1/backfills/{}", job["id"].as_str().expect("an id"));
        Self { instance, path }
    }

    async fn now(&self) -> Value {
        self.instance.get(&self.path).await.expect("the job")
    }

    async fn put(&self, number: u32, body: String) -> Value {
        let request = self.instance.request(Method::PUT, &format!("{}/chunks/{number}", self.path));
        self.instance.json(request.header("content-type", "application/x-ndjson").body(body)).await.expect("taken")
    }

    async fn commit(&self, expected: i64) {
        let preview = self.instance.get(&format!("{}/preview", self.path)).await.expect("a preview");
        assert_eq!((&preview["new"], &preview["already_there"]), (&json!(expected), &json!(0)), "{preview}");
        let commit = self.instance.request(Method::POST, &format!("{}/commit", self.path));
        self.instance.json(commit.json(&json!({ "expected_events": expected }))).await.expect("committed");
    }

    async fn done(&self) -> Value {
        eventually("the backfill is done", PATIENCE, async || Some(self.now().await).filter(|job| job["state"] == "done")).await
    }

    async fn calls_of(&self, source: &str) -> String {
        let day = |days| (start() + TimeDelta::days(days)).format("%Y-%m-%d");
        let path = format!("/api/v1/usage?meter=calls&window=none&filter[source]={source}&from={}&to={}", day(-1), day(30));
        let answer = self.instance.get(&path).await.expect("usage");
        answer["data"][0]["value"].as_str().expect("a value").to_owned()
    }
}

pub async fn a_job_goes_on_wherever_it_was_killed() {
    let at = |point: &str| [("FAREBOX_KILL_AT", point.to_owned())];
    let mut up = Up::start("backfill", free_port().expect("a port")).await.expect("it starts");
    let file = json!({ "source": "old", "file": "old.jsonl" });
    let job = Job::begin(up.instance().expect("credentials"), file).await;

    // Between two chunks: the sender goes on where the job says.
    assert_eq!(job.put(0, lines(0..2_000)).await["accepted"], 2_000);
    up.kill_and_restart(&at("backfill.inserted")).await.expect("it starts again");
    assert_eq!((&job.now().await["next_chunk"], &job.now().await["accepted"]), (&json!(1), &json!(2_000)));
    assert_eq!(job.put(0, lines(0..2_000)).await["accepted"], 0, "what was taken is passed over");
    assert_eq!(job.put(1, lines(2_000..MINUTES)).await["accepted"], MINUTES - 2_000);

    // Within the commit: after a part's events, after its touches, after its progress; and before the end.
    job.commit(MINUTES).await;
    for point in ["backfill.inserted", "backfill.touched", "backfill.part", "backfill.repaired"] {
        assert_eq!(up.until_dead().await, Some(SIGABRT), "{point}");
        let next = match point {
            "backfill.inserted" => "backfill.touched",
            "backfill.touched" => "backfill.part",
            "backfill.part" => "backfill.repaired",
            _ => "",
        };
        up.start_again(&at(next)).expect("it starts");
    }
    up.wait_until_ready().await.expect("it is ready");
    let finished = job.done().await;
    assert_eq!((&finished["minutes"], &finished["minutes_done"], &finished["new"]), (&json!(MINUTES), &json!(MINUTES), &json!(MINUTES)));
    assert_eq!(job.calls_of("old").await, MINUTES.to_string());

    // While a topic is read.
    let app = App::connect(Config::load(&up.data.join("farebox.toml")).expect("a configuration")).await.expect("connected");
    let catalogue =
        "workspace: acme/test\ncurrency: USD\ntime_zone: UTC\nsources: [{name: late, format: cloudevents, kafka_topic: late-logs}]\n";
    let apply = job.instance.request(Method::POST, "/api/v1/catalog").header("content-type", "application/yaml").body(catalogue);
    job.instance.json(apply).await.expect("applied");
    let records: Vec<_> = (0..MESSAGES).map(|n| event("late", n, start() + TimeDelta::seconds(n))).collect();
    let sent = records.iter().map(|record| app.kafka.producer.send(FutureRecord::<(), str>::to("late-logs").payload(record), PATIENCE));
    assert!(join_all(sent).await.into_iter().all(|sent| sent.is_ok()), "produced");
    up.kill_and_restart(&at("backfill.read")).await.expect("it starts again");
    let job = Job::begin(up.instance().expect("credentials"), json!({ "source": "late", "topic": "late-logs" })).await;
    assert_eq!(up.until_dead().await, Some(SIGABRT), "while the topic is read");
    up.start_again(&at("")).expect("it starts");
    up.wait_until_ready().await.expect("it is ready");
    let read = eventually("the topic is read", PATIENCE, async || Some(job.now().await).filter(|job| job["state"] == "open")).await;
    assert_eq!((&read["accepted"], &read["rejected"]), (&json!(MESSAGES), &json!(0)), "{read}");
    job.commit(MESSAGES).await;
    job.done().await;
    assert_eq!(job.calls_of("late").await, MESSAGES.to_string());
    up.stop_and_remove().await;
}
