//! What the answers to several clients share, such as a collection's content.
//!
//! To lend what is kept anyway costs nothing. But when it is replaced, it stays in memory for the readers who are slow. So
//! what was replaced is counted, by client, while it is still read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::buffers::{LITTLE, NoRoom};
use super::peer::client_of;
use crate::settings::InForce;

/// Something that is kept, and may be lent.
#[derive(Debug)]
pub struct Stock(Arc<Lent>);

/// Something that was lent.
#[derive(Debug)]
pub struct Lent {
    bytes: usize,
    is_kept: AtomicBool,
}

/// What is lent to a client, and to how many readers of it.
type Own = Vec<(Arc<Lent>, usize)>;

/// All that is lent, by client.
#[derive(Debug)]
pub struct Loans {
    settings: InForce,
    by_client: Mutex<HashMap<Option<IpAddr>, Own>>,
}

/// What one answer is made of, for as long as it is read.
#[derive(Debug)]
pub struct Loan {
    loans: Arc<Loans>,
    client: Option<IpAddr>,
    lent: Arc<Lent>,
}

impl Stock {
    /// Something of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Lent { bytes, is_kept: AtomicBool::new(true) }))
    }

    /// What is lent of it for an answer of so many bytes; `None` where that is too little to be counted.
    pub fn lent(&self, bytes: usize) -> Option<Arc<Lent>> {
        (bytes >= LITTLE).then(|| Arc::clone(&self.0))
    }

    /// It is kept no more, though somebody may still hold it.
    pub fn retire(&self) {
        self.0.is_kept.store(false, Ordering::Relaxed);
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Lent {
    /// The memory that is there for its readers alone.
    fn left(&self) -> usize {
        if self.is_kept.load(Ordering::Relaxed) { 0 } else { self.bytes }
    }
}

impl Loans {
    /// A budget of so many bytes for what is kept no more; one client may have half of it.
    pub fn new(settings: InForce) -> Arc<Self> {
        Arc::new(Self { settings, by_client: Mutex::default() })
    }

    /// Lends something to a client, unless they still read too much that is kept no more.
    pub fn lend(self: &Arc<Self>, client: Option<IpAddr>, lent: Arc<Lent>) -> Result<Loan, NoRoom> {
        let client = client.map(client_of);
        let mut by_client = self.by_client.lock();
        let most = self.settings.now().limits.buffered_bytes;
        let left = |loans: &Own| loans.iter().map(|(lent, _)| lent.left()).sum::<usize>();
        if by_client.get(&client).is_some_and(|own| left(own) > most / 2)
            || by_client.values().map(left).sum::<usize>() > most
        {
            metrics::counter!("kinto_sidecar_buffer_refused_total").increment(1);
            return Err(NoRoom);
        }
        let own = by_client.entry(client).or_default();
        match own.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &lent)) {
            Some((_, readers)) => *readers += 1,
            None => own.push((Arc::clone(&lent), 1)),
        }
        drop(by_client);
        Ok(Loan { loans: Arc::clone(self), client, lent })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut by_client = self.loans.by_client.lock();
        let Some(own) = by_client.get_mut(&self.client) else { return };
        if let Some(place) = own.iter().position(|(known, _)| Arc::ptr_eq(known, &self.lent))
            && let Some((_, readers)) = own.get_mut(place)
        {
            *readers -= 1;
            if *readers == 0 {
                own.swap_remove(place);
            }
        }
        if own.is_empty() {
            by_client.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_no_more_is_counted_for_those_who_still_read_it() {
        let loans = Loans::new(InForce::with(|settings| settings.limits.buffered_bytes = 2 * LITTLE));
        let (one, other) = (Some(IpAddr::from([1, 1, 1, 1])), Some(IpAddr::from([2, 2, 2, 2])));
        let stock = Stock::new(LITTLE + 1);
        assert!(stock.lent(LITTLE - 1).is_none());
        let read: Vec<_> = (0..9).map(|_| loans.lend(one, stock.lent(LITTLE).unwrap()).unwrap()).collect();
        drop(stock);
        let next = Stock::new(LITTLE + 1);
        let lend = |client| loans.lend(client, next.lent(LITTLE).unwrap());
        assert_eq!(lend(one).unwrap_err(), NoRoom);
        let others = lend(other).unwrap();
        drop(read);
        assert!(lend(one).is_ok());
        drop(others);
        assert!(loans.by_client.lock().is_empty());
    }
}
