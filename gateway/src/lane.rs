//! A coalescing queue: one slot per key, the newest wish wins, each slot has an instant at which it is
//! due. Pure: the caller brings the time.

use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

/// Wishes of one kind, waiting for their turn.
#[derive(Debug)]
pub struct Lane<K, W, T> {
    most: usize,
    slots: BTreeMap<K, Slot<W, T>>,
    due: BTreeSet<(Duration, K)>,
}

/// One wish with those who wait for it.
#[derive(Debug)]
pub struct Slot<W, T> {
    /// What is to be written.
    pub wish: W,
    /// Who wants to know when it is.
    pub tickets: Vec<T>,
    due: Duration,
}

/// The lane is full; come again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<K: Ord + Clone, W, T> Lane<K, W, T> {
    /// A lane with at most so many slots.
    pub fn new(most: usize) -> Lane<K, W, T> {
        Lane { most, slots: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Adds a wish. `join` merges it into one that waits already; the earlier due instant stands.
    pub fn add(
        &mut self,
        key: K,
        wish: W,
        due: Duration,
        ticket: Option<T>,
        join: impl FnOnce(&mut W, W),
    ) -> Result<(), Full> {
        if let Some(slot) = self.slots.get_mut(&key) {
            join(&mut slot.wish, wish);
            slot.tickets.extend(ticket);
            self.hurry(&key, due);
            return Ok(());
        }
        if self.slots.len() >= self.most {
            return Err(Full);
        }
        self.due.insert((due, key.clone()));
        self.slots.insert(key, Slot { wish, tickets: ticket.into_iter().collect(), due });
        Ok(())
    }

    /// Makes a waiting wish due at `due`, if that is earlier.
    pub fn hurry(&mut self, key: &K, due: Duration) {
        if let Some(slot) = self.slots.get_mut(key)
            && due < slot.due
        {
            self.due.remove(&(slot.due, key.clone()));
            slot.due = due;
            self.due.insert((due, key.clone()));
        }
    }

    /// Takes the wish of a key out of turn.
    pub fn take(&mut self, key: &K) -> Option<Slot<W, T>> {
        let slot = self.slots.remove(key)?;
        self.due.remove(&(slot.due, key.clone()));
        Some(slot)
    }

    /// Puts a taken wish back; what was added meanwhile is newer and joined as such.
    pub fn put_back(&mut self, key: K, mut older: Slot<W, T>, join: impl FnOnce(&mut W, W)) {
        if let Some(newer) = self.take(&key) {
            join(&mut older.wish, newer.wish);
            older.tickets.extend(newer.tickets);
            older.due = older.due.min(newer.due);
        }
        self.due.insert((older.due, key.clone()));
        self.slots.insert(key, older);
    }

    /// Takes the wish that is due longest, if one is due at `now`.
    pub fn take_due(&mut self, now: Duration) -> Option<(K, Slot<W, T>)> {
        let (due, key) = self.due.first()?.clone();
        if due > now {
            return None;
        }
        self.take(&key).map(|slot| (key, slot))
    }

    /// When the next wish is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Makes every wish due now.
    pub fn hurry_all(&mut self, now: Duration) {
        let keys: Vec<K> = self.slots.keys().cloned().collect();
        for key in keys {
            self.hurry(&key, now);
        }
    }

    /// Number of wishes.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn newest(old: &mut u32, new: u32) {
        *old = new.max(*old);
    }

    #[test]
    fn the_newest_wish_of_a_key_is_written_once_at_its_earliest_instant() {
        let mut lane: Lane<&str, u32, char> = Lane::new(10);
        lane.add("ws-1", 1, at(60), Some('a'), newest).unwrap();
        lane.add("ws-1", 3, at(90), Some('b'), newest).unwrap();
        lane.add("ws-1", 2, at(5), None, newest).unwrap();
        assert!(lane.take_due(at(4)).is_none());
        let (key, slot) = lane.take_due(at(5)).unwrap();
        assert_eq!((key, slot.wish, slot.tickets), ("ws-1", 3, vec!['a', 'b']));
        assert!(lane.is_empty() && lane.next_due().is_none());
    }

    #[test]
    fn a_wish_that_is_put_back_loses_neither_waiters_nor_what_is_newer() {
        let mut lane: Lane<u32, u32, char> = Lane::new(1);
        lane.add(1, 7, at(0), Some('a'), newest).unwrap();
        let taken = lane.take(&1).unwrap();
        lane.add(1, 9, at(30), Some('b'), newest).unwrap();
        lane.put_back(1, taken, newest);
        let (_, slot) = lane.take_due(at(0)).unwrap();
        assert_eq!((slot.wish, slot.tickets), (9, vec!['a', 'b']));
    }

    #[test]
    fn a_full_lane_refuses_new_keys_and_still_joins_old_ones() {
        let mut lane: Lane<u32, u32, ()> = Lane::new(2);
        lane.add(1, 1, at(0), None, newest).unwrap();
        lane.add(2, 1, at(0), None, newest).unwrap();
        assert_eq!(lane.add(3, 1, at(0), None, newest), Err(Full));
        lane.add(1, 2, at(0), None, newest).unwrap();
        assert_eq!(lane.len(), 2);
    }

    #[test]
    fn what_is_due_longest_goes_first() {
        let mut lane: Lane<u32, u32, ()> = Lane::new(9);
        for (key, due) in [(1, 30), (2, 10), (3, 20)] {
            lane.add(key, key, at(due), None, newest).unwrap();
        }
        lane.hurry_all(at(15));
        let order: Vec<_> =
            std::iter::from_fn(|| lane.take_due(at(15)).map(|(key, _)| key)).collect();
        assert_eq!(order, [2, 1, 3]);
    }
}
