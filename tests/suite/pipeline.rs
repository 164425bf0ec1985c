//! What `farebox simulate` sends equals what is counted, whatever is killed meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farebox::simulate::{self, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Suite, Up, eventually, free_port};

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
        acknowledged: Arc::default(),
    }
}

/// Duplicates, late, malformed and disordered events: usage per consumer, route and status is the truth exactly, and
/// the malformed are all in the dead letters, each with a reason.
pub async fn counts_equal_the_truth(suite: &Suite) {
    simulate::run(&suite.instance, &traffic(1000, 5)).await.expect("equal to the truth");
}

/// In every run; FAREBOX_KILLS=50 asks for more.
const KILLS: u64 = 5;
const RATE: u32 = 300;
/// Seconds of traffic for each.
const EACH: u64 = 6;
/// How long an outage may keep the traffic from going on.
const RECOVERY: Duration = Duration::from_mins(3);

/// `kill -9` of each engine under load, and of everything at once, spread over the traffic; each comes when what was killed
/// before it takes events again. After the last restart, the same equality.
pub async fn counts_equal_the_truth_although_everything_is_killed() {
    let mut up = Up::start("killed", free_port().expect("a port")).await.expect("`farebox up` starts");
    let instance = up.instance().expect("credentials");
    let kills = std::env::var("FAREBOX_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let traffic = traffic(RATE, (kills + 1) * EACH);
    let acknowledged = Arc::clone(&traffic.acknowledged);
    let sending = tokio::spawn(async move { simulate::run(&instance, &traffic).await });
    let mut moments = StdRng::seed_from_u64(kills);
    for n in 0..kills {
        let requests = u64::from(RATE) * EACH;
        let then = requests * n + moments.random_range(requests / 2..requests);
        eventually("traffic goes on", RECOVERY, || async { (acknowledged.load(Ordering::Relaxed) >= then).then_some(()) }).await;
        if n % 5 == 3 {
            up.kill_and_restart(&[]).await.expect("starts again on what is left");
            continue;
        }
        let engine = ["kafka.Kafka", "engine clickhouse", "postgres"][usize::try_from(n % 5).unwrap_or(0) % 3];
        up.kill_engine(engine).await;
    }
    sending.await.expect("no panic").expect("equal to the truth");
    up.stop_and_remove().await;
}
