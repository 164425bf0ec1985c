//! What `farebox simulate` sends equals what is counted, whatever is killed meanwhile.

use std::time::Duration;

use farebox::simulate::{self, Options};

use crate::harness::{Suite, Up, free_port};

fn traffic(rate: u32, seconds: u64) -> Options {
    Options {
        rate,
        duration: Duration::from_secs(seconds),
        consumers: 12,
        duplicates: 2,
        late: 1,
        malformed: 1,
        seed: Some(42),
        truth: None,
        verify: true,
    }
}

/// Duplicates, late, malformed and disordered events: usage per consumer, route and status is the truth exactly, and
/// the malformed are all in the dead letters, each with a reason.
pub async fn counts_equal_the_truth(suite: &Suite) {
    simulate::run(&suite.instance, &traffic(1000, 5)).await.expect("equal to the truth");
}

/// `kill -9` of each engine under load, then of everything at once: after the restart, the same equality.
pub async fn counts_equal_the_truth_although_everything_is_killed() {
    let mut up = Up::start("killed", free_port().expect("a port")).await.expect("`farebox up` starts");
    let instance = up.instance().expect("credentials");
    let sending = tokio::spawn(async move { simulate::run(&instance, &traffic(300, 25)).await });
    for engine in ["kafka.Kafka", "engine clickhouse", "postgres"] {
        tokio::time::sleep(Duration::from_secs(3)).await; // under load: the moment itself is arbitrary
        up.kill_engine(engine).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    up.kill_and_restart().await.expect("starts again on what is left");
    sending.await.expect("no panic").expect("equal to the truth");
    up.stop_and_remove().await;
}
