//! Where readers were told to go on, so that those who do are given nothing twice.
//!
//! A timestamp does not say what its reader has seen: a row with a lower one may have become visible after they read,
//! here or at another sidecar. So whoever goes on from a timestamp is given again what they may have missed, unless this
//! sidecar itself gave them that timestamp at the end of an answer, and remembers what it had shown by then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::kinto::Timestamp;

/// How many timestamps are remembered.
const MOST: usize = 4096;

/// For how long.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Timestamps that were given out, each with what its reader had been shown.
#[derive(Debug, Default)]
pub struct Issued(Mutex<HashMap<Timestamp, Ticket>>);

#[derive(Debug, Clone, Copy)]
struct Ticket {
    /// The first of the serials at which it was given out.
    serial: u64,
    /// How many readers have it, and did not come back.
    readers: u32,
    given: Instant,
}

impl Issued {
    /// A reader who was shown everything up to `timestamp` of what there was at `serial` may come back with it.
    pub fn give(&self, timestamp: Timestamp, serial: u64) {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if tickets.len() >= MOST && !tickets.contains_key(&timestamp) {
            tickets.retain(|_, ticket| now.duration_since(ticket.given) < REMEMBERED);
            let oldest = tickets.iter().min_by_key(|(_, ticket)| ticket.given).map(|(oldest, _)| *oldest);
            if let (true, Some(oldest)) = (tickets.len() >= MOST, oldest) {
                tickets.remove(&oldest);
            }
        }
        let ticket = tickets.entry(timestamp).or_insert(Ticket { serial, readers: 0, given: now });
        ticket.serial = ticket.serial.min(serial);
        ticket.readers = ticket.readers.saturating_add(1);
        ticket.given = now;
    }

    /// A reader comes with a timestamp: the serial up to which one of those who were given it has seen everything.
    pub fn take(&self, timestamp: Timestamp) -> Option<u64> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = tickets.get_mut(&timestamp)?;
        let serial = (ticket.given.elapsed() < REMEMBERED).then_some(ticket.serial);
        ticket.readers = ticket.readers.saturating_sub(1);
        if ticket.readers == 0 || serial.is_none() {
            tickets.remove(&timestamp);
        }
        serial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_known_for_as_many_readers_as_were_given_it() {
        let issued = Issued::default();
        issued.give(Timestamp(10), 3);
        issued.give(Timestamp(10), 4);
        assert_eq!(issued.take(Timestamp(10)), Some(3));
        assert_eq!(issued.take(Timestamp(10)), Some(3));
        assert_eq!(issued.take(Timestamp(10)), None);
        assert_eq!(issued.take(Timestamp(11)), None);
    }

    #[test]
    fn no_more_are_remembered_than_fit() {
        let issued = Issued::default();
        for number in 0..2 * MOST as u64 {
            issued.give(Timestamp(number), 1);
        }
        assert_eq!(issued.0.lock().unwrap().len(), MOST);
        assert_eq!(issued.take(Timestamp(2 * MOST as u64 - 1)), Some(1));
    }
}
