//! The fence between Kafka's rebalances and the work: before a partition is handed over, its work is finished or
//! dropped.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance};

/// An insert that lasts longer than this no longer holds the rebalance up: what it stores is stored again by the new
/// owner, and counts once all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Which partitions are ours. Each assignment of a partition is a new epoch; work of an earlier one is dropped.
#[derive(Default)]
pub(crate) struct Fence {
    state: Mutex<State>,
    at_rest: Condvar,
}

#[derive(Default)]
struct State {
    epochs: HashMap<i32, u64>,
    last: u64,
    working: bool,
}

impl Fence {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of a partition that is ours.
    pub fn epoch(&self, partition: i32) -> Option<u64> {
        self.state().epochs.get(&partition).copied()
    }

    fn assign(&self, partitions: impl Iterator<Item = i32>) {
        let mut state = self.state();
        for partition in partitions {
            state.last += 1;
            let epoch = state.last;
            state.epochs.insert(partition, epoch);
        }
    }

    /// Returns when no work on the partitions goes on any more.
    fn revoke(&self, partitions: impl Iterator<Item = i32>) {
        let mut state = self.state();
        for partition in partitions {
            state.epochs.remove(&partition);
        }
        let waited = self.at_rest.wait_timeout_while(state, LONGEST_WAIT, |s| s.working);
        drop(waited);
    }

    /// Starts work: drops items of partitions that are not ours any more, and holds rebalances up until the guard goes.
    pub fn begin<T>(&self, items: &mut Vec<T>, of: impl Fn(&T) -> (i32, u64)) -> Working<'_> {
        let mut state = self.state();
        items.retain(|item| {
            let (partition, epoch) = of(item);
            state.epochs.get(&partition) == Some(&epoch)
        });
        state.working = true;
        Working(self)
    }
}

pub(crate) struct Working<'a>(&'a Fence);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.state().working = false;
        self.0.at_rest.notify_all();
    }
}

/// Kafka's callbacks, on the polling thread.
#[derive(Clone, Default)]
pub(crate) struct Context {
    pub fence: std::sync::Arc<Fence>,
}

fn partitions(list: &TopicPartitionList) -> impl Iterator<Item = i32> {
    list.elements().into_iter().map(|e| e.partition()).collect::<Vec<_>>().into_iter()
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.fence.assign(partitions(list)),
            Rebalance::Revoke(list) => self.fence.revoke(partitions(list)),
            Rebalance::Error(error) => tracing::warn!("Kafka could not share the partitions out: {error}"),
        }
    }

    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // Harmless: what was not committed comes again and replaces itself.
            tracing::info!("offsets were not committed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;

    #[test]
    fn work_of_an_earlier_assignment_is_dropped() {
        let fence = Fence::default();
        fence.assign([0, 1].into_iter());
        let old = [(0, fence.epoch(0).expect("assigned")), (1, fence.epoch(1).expect("assigned"))];
        fence.revoke([0].into_iter());
        assert_eq!(fence.epoch(0), None);
        fence.assign([0].into_iter());
        let mut items = old.to_vec();
        let working = fence.begin(&mut items, |item| *item);
        assert_eq!(items, [old[1]], "partition 0 came back, but its old items belong to nobody");
        drop(working);
    }

    #[test]
    fn a_partition_is_handed_over_only_when_its_work_is_done() {
        let fence = Arc::new(Fence::default());
        fence.assign([7].into_iter());
        let mut items = vec![(7, fence.epoch(7).expect("assigned"))];
        let working = fence.begin(&mut items, |item| *item);
        let (handed_over, order) = mpsc::channel();
        let revoker = {
            let (fence, handed_over) = (fence.clone(), handed_over.clone());
            std::thread::spawn(move || {
                fence.revoke([7].into_iter());
                handed_over.send("handed over").expect("the test listens");
            })
        };
        // The revocation has begun as soon as the epoch is gone.
        while fence.epoch(7).is_some() {
            std::thread::yield_now();
        }
        handed_over.send("finished").expect("the test listens");
        drop(working);
        revoker.join().expect("no panic");
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["finished", "handed over"]);
    }
}
