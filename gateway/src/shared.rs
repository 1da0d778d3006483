//! One fresh read for all who ask at once.
//!
//! A permit rests on reads that began after it was asked for. The devices of a stage ask together and
//! need the same slice, rollout and groups: whoever comes while a read is under way waits for the next
//! one, which serves all who came until it began. Nothing is ever answered from an older read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync, time::Instant};

/// Reads of one kind, by what is read.
#[derive(Debug)]
pub struct Shared<T> {
    rooms: Mutex<BTreeMap<String, Room<T>>>,
}

/// The latest read with the instant at which it began; locked while the next one is under way.
type Room<T> = Arc<sync::Mutex<Option<(Instant, Arc<T>)>>>;

impl<T> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { rooms: Mutex::default() }
    }
}

impl<T> Shared<T> {
    /// What `read` answers, or another one's read of the same `key` that began after this call.
    pub async fn read<E>(
        &self,
        key: &str,
        read: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let asked = Instant::now();
        let room = self.rooms().entry(key.to_owned()).or_default().clone();
        let answer = serve(&room, asked, read).await;
        let mut rooms = self.rooms();
        // Ours and the map's: nobody waits, so nothing is kept.
        if Arc::strong_count(&room) == 2 {
            rooms.remove(key);
        }
        answer
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<String, Room<T>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve<T, E>(
    room: &Room<T>,
    asked: Instant,
    read: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<Arc<T>, E> {
    let mut latest = room.lock().await;
    if let Some((began, value)) = &*latest
        && *began >= asked
    {
        return Ok(value.clone());
    }
    let began = Instant::now();
    // A reader that fails or goes away leaves its turn to the next.
    let value = Arc::new(read().await?);
    *latest = Some((began, value.clone()));
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::{sync::Semaphore, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn who_asks_during_a_read_gets_the_next_one_and_all_of_them_share_it() {
        let (shared, count, gate) = (Shared::default(), AtomicU32::new(0), Semaphore::new(0));
        let ask = || {
            shared.read("slice", async || {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                gate.acquire().await.map(|_| number)
            })
        };
        let late = async { tokio::join!(ask(), ask(), ask()) };
        let open = async {
            yield_now().await;
            gate.add_permits(1);
        };

        let (first, (second, third, fourth), ()) = tokio::join!(ask(), late, open);

        assert_eq!(*first.unwrap(), 1);
        let others = [second, third, fourth].map(|answer| *answer.unwrap());
        assert_eq!(others, [2, 2, 2]);
        assert!(shared.rooms().is_empty(), "nothing is kept for later");
    }

    #[tokio::test]
    async fn a_read_that_fails_is_nobody_elses_answer() {
        let shared = Shared::<u32>::default();
        let bad = shared.read("slice", async || {
            yield_now().await;
            Err("gone")
        });
        let good = shared.read("slice", async || Ok::<u32, &str>(7));
        let (bad, good) = tokio::join!(bad, good);
        assert_eq!(bad.unwrap_err(), "gone");
        assert_eq!(*good.unwrap(), 7);
    }
}
