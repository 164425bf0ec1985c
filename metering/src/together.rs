//! One answer for all who ask the same at the same time. Nobody gets an answer that was begun before he asked: what is
//! under way is not joined, the next one is. So a page of a dozen questions looks twice, and each question still sees
//! everything that was acknowledged before it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

/// Questions of one page come within this; a look takes ten times as long.
const GATHER: Duration = Duration::from_millis(2);

pub(crate) struct Together<K, V> {
    places: Mutex<HashMap<K, Place<V>>>,
}

/// Where those wait who ask one thing.
struct Place<V> {
    /// Held by the one who looks.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The answer that was not begun yet.
    next: Arc<OnceCell<V>>,
}

impl<V> Default for Place<V> {
    fn default() -> Self {
        Self { turn: Arc::default(), next: Arc::new(OnceCell::new()) }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Default for Together<K, V> {
    fn default() -> Self {
        Self { places: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Together<K, V> {
    /// When looking fails, or is given up by the one who does it, the next of those who wait looks himself.
    pub async fn ask<E>(&self, key: &K, look: impl AsyncFnOnce() -> Result<V, E>) -> Result<V, E> {
        let (turn, answer) = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // Places at which nobody waits any more.
            places.retain(|_, place| Arc::strong_count(&place.turn) > 1);
            let place = places.entry(key.clone()).or_default();
            (place.turn.clone(), place.next.clone())
        };
        let begin = async || {
            tokio::time::sleep(GATHER).await;
            let _turn = turn.lock().await;
            self.close(key, &answer);
            look().await
        };
        answer.get_or_try_init(begin).await.cloned()
    }

    /// From here on those who come wait for another answer.
    fn close(&self, key: &K, answer: &Arc<OnceCell<V>>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get_mut(key)
            && Arc::ptr_eq(&place.next, answer)
        {
            place.next = Arc::new(OnceCell::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// One looks; three who come meanwhile share a look of their own, begun after they came.
    #[tokio::test]
    async fn what_is_under_way_is_not_joined() {
        let (together, looks, gate) = (Together::<&str, u32>::default(), AtomicU32::new(0), Semaphore::new(0));
        let ask = async || {
            let look = async || {
                let n = looks.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.expect("open").forget();
                Ok::<_, ()>(n)
            };
            together.ask(&"usage", look).await
        };
        let others = async {
            while looks.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let let_go = async { gate.add_permits(2) };
            tokio::join!(biased; ask(), ask(), ask(), let_go)
        };
        let (first, (a, b, c, ())) = tokio::join!(ask(), others);
        assert_eq!((first, a, b, c), (Ok(1), Ok(2), Ok(2), Ok(2)));
        let again = ask();
        gate.add_permits(1);
        assert_eq!(again.await, Ok(3));
    }

    /// Who looks is told of the failure; the next of those who wait looks himself, for all others.
    #[tokio::test]
    async fn a_failure_is_told_once() {
        let (together, looks) = (Together::<(), u32>::default(), AtomicU32::new(0));
        let ask = async || {
            let look = async || match looks.fetch_add(1, Ordering::SeqCst) {
                0 => Err("refused"),
                n => Ok(n),
            };
            together.ask(&(), look).await
        };
        let mut answers = <[_; 4]>::from(tokio::join!(ask(), ask(), ask(), ask()));
        answers.sort_unstable();
        assert_eq!(answers, [Ok(1), Ok(1), Ok(1), Err("refused")]);
    }
}
