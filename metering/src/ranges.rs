//! Stretches of a Kafka topic, read once more from their start to their end, beside whoever consumes it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

/// How long a broker may take to say what there is.
pub(crate) const ASK: Duration = Duration::from_secs(10);
/// Between two looks for a coordinator.
const AGAIN: Duration = Duration::from_millis(100);
/// A topic that gives nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);

/// Partition, first offset, and the offset after the last.
pub(crate) type Range = (i32, i64, i64);

/// What the consumer's group has committed. A group's coordinator may be just being chosen, as in a cluster that has
/// only begun; this is waited for, as long as a broker may take to say anything.
pub(crate) fn committed(consumer: &BaseConsumer<DefaultConsumerContext>, of: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let asked = Instant::now();
    loop {
        match consumer.committed_offsets(of.clone(), ASK) {
            Err(KafkaError::MetadataFetch(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator))
                if asked.elapsed() < ASK =>
            {
                std::thread::sleep(AGAIN);
            }
            answer => return answer,
        }
    }
}

/// Every message of the ranges once, each partition's in their order.
pub(crate) fn read(
    consumer: &BaseConsumer<DefaultConsumerContext>,
    topic: &str,
    ranges: &[Range],
    mut take: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut list, mut ends) = (TopicPartitionList::new(), HashMap::new());
    for (partition, start, end) in ranges.iter().filter(|(_, start, end)| start < end) {
        list.add_partition_offset(topic, *partition, Offset::Offset(*start))?;
        ends.insert(*partition, *end);
    }
    if ends.is_empty() {
        return Ok(());
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while !ends.is_empty() {
        anyhow::ensure!(heard.elapsed() < SILENCE, "Kafka gives no more messages of `{topic}`");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            // What is left may be gaps (control records) before the end.
            for partition in consumer.position()?.elements() {
                if let (Some(end), Some(at)) = (ends.get(&partition.partition()), partition.offset().to_raw())
                    && at >= *end
                {
                    ends.remove(&partition.partition());
                }
            }
            continue;
        };
        let message = message?;
        heard = Instant::now();
        let Some(end) = ends.get(&message.partition()).copied() else { continue };
        if message.offset() < end {
            take(&message)?;
        }
        if message.offset() + 1 >= end {
            ends.remove(&message.partition());
        }
    }
    Ok(())
}
