//! Compressed bodies, each made once and kept for whoever asks next.
//!
//! They are bounded in bytes: where there is no room, the oldest that nobody asked for lately makes it. Each is a stock of
//! its own, so that what was dropped here is counted for those who still read it ([`super::lent`]).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::compression::{self, Encoding};
use super::lent::{Lent, Stock};

/// Up to this length, in bytes, compressing takes less than handing it over to another thread.
pub const AT_ONCE: usize = 32 * 1024;

/// All variants of one kind take no more than this, in bytes, unless a single one does.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What a variant takes beside its body, in bytes.
const OVERHEAD: usize = 512;

/// The variants made so far, by names, with a note on each.
pub struct Variants<N, X = ()> {
    kept: Mutex<Kept<N, X>>,
    /// Held while one is made.
    turns: Arc<Semaphore>,
}

struct Kept<N, X> {
    variants: HashMap<(N, Encoding), KeptVariant<X>>,
    /// In the order in which they were made, or spared.
    order: VecDeque<(N, Encoding)>,
    bytes: usize,
    most: usize,
}

struct KeptVariant<X> {
    body: Bytes,
    note: X,
    stock: Stock,
    was_asked_for: bool,
}

/// A compressed body.
#[derive(Debug, Clone)]
pub struct Variant<X = ()> {
    /// The body.
    pub body: Bytes,
    /// What is known of it.
    pub note: X,
    /// What its readers are lent.
    pub lent: Option<Arc<Lent>>,
}

// === impl Variants ===

impl<N, X> Variants<N, X>
where
    N: Eq + Hash + Clone,
    X: Clone,
{
    /// None yet, of which so many are made at once.
    pub fn new(at_once: usize) -> Self {
        Self::within(MOST_BYTES, at_once)
    }

    fn within(most: usize, at_once: usize) -> Self {
        let kept = Kept { variants: HashMap::new(), order: VecDeque::new(), bytes: 0, most };
        Self { kept: Mutex::new(kept), turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// The variant of this name, where it was made.
    pub fn get(&self, name: &(N, Encoding)) -> Option<Variant<X>> {
        self.kept.lock().variants.get_mut(name).map(KeptVariant::ask)
    }

    /// The variant of this name, compressed from `chunks` where it was not made yet (see [`compression::compress`]).
    pub async fn get_or_make(
        &self,
        name: (N, Encoding),
        note: X,
        dictionary: Bytes,
        chunks: Vec<Bytes>,
        background: &Handle,
    ) -> io::Result<Variant<X>> {
        let encoding = name.1;
        let body = if length(&chunks) <= AT_ONCE {
            compression::compress(encoding, &dictionary, &chunks)?
        } else {
            let _turn = self.turns.acquire().await;
            if let Some(variant) = self.get(&name) {
                return Ok(variant);
            }
            let making =
                background.spawn_blocking(move || compression::compress(encoding, &dictionary, &chunks));
            making.await.map_err(io::Error::other)??
        };
        Ok(self.kept.lock().keep(name, body, note))
    }

    /// The memory that they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }
}

impl<N: Eq + Hash + Clone + Send + 'static> Variants<N> {
    /// As [`Self::get_or_make`], for who cannot wait: what takes long is made aside, and there is none until that is done.
    pub fn get_or_begin(
        self: &Arc<Self>,
        name: (N, Encoding),
        dictionary: &Bytes,
        chunks: &[Bytes],
    ) -> Option<Variant> {
        if let Some(variant) = self.get(&name) {
            return Some(variant);
        }
        let encoding = name.1;
        if length(chunks) <= AT_ONCE {
            let body = compression::compress(encoding, dictionary, chunks).ok()?;
            return Some(self.kept.lock().keep(name, body, ()));
        }
        let turn = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        let (this, dictionary, chunks) = (Arc::clone(self), dictionary.clone(), chunks.to_vec());
        Handle::try_current().ok()?.spawn_blocking(move || {
            let _turn = turn;
            if this.get(&name).is_none()
                && let Ok(body) = compression::compress(encoding, &dictionary, &chunks)
            {
                this.kept.lock().keep(name, body, ());
            }
        });
        None
    }
}

impl<N: Eq + Hash + Clone, X: Clone> Default for Variants<N, X> {
    fn default() -> Self {
        Self::new(1)
    }
}

impl<N, X> fmt::Debug for Variants<N, X> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Variants").field("bytes", &self.kept.lock().bytes).finish_non_exhaustive()
    }
}

fn length(chunks: &[Bytes]) -> usize {
    chunks.iter().map(Bytes::len).sum()
}

// === impl Kept ===

impl<N: Eq + Hash + Clone, X: Clone> Kept<N, X> {
    fn keep(&mut self, name: (N, Encoding), body: Bytes, note: X) -> Variant<X> {
        let weight = body.len() + OVERHEAD;
        self.make_room(weight);
        let stock = Stock::new(body.len());
        let mut variant = KeptVariant { body, note, stock, was_asked_for: false };
        let answer = variant.ask();
        variant.was_asked_for = false;
        self.bytes += weight;
        match self.variants.insert(name.clone(), variant) {
            // Somebody else made it meanwhile.
            Some(replaced) => self.bytes -= replaced.body.len() + OVERHEAD,
            None => self.order.push_back(name),
        }
        answer
    }

    fn make_room(&mut self, weight: usize) {
        while self.bytes + weight > self.most
            && let Some(name) = self.order.pop_front()
        {
            let variant = self.variants.get_mut(&name);
            if variant.is_some_and(|variant| std::mem::take(&mut variant.was_asked_for)) {
                self.order.push_back(name);
            } else {
                let dropped = self.variants.remove(&name);
                self.bytes -= dropped.map_or(0, |variant| variant.body.len() + OVERHEAD);
            }
        }
    }
}

impl<X: Clone> KeptVariant<X> {
    fn ask(&mut self) -> Variant<X> {
        self.was_asked_for = true;
        Variant { body: self.body.clone(), note: self.note.clone(), lent: self.stock.lent(self.body.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::settings::InForce;
    use crate::wire::lent::Loans;

    /// A body that hardly gets smaller.
    fn noise(length: usize, seed: u64) -> Vec<Bytes> {
        let numbers = std::iter::successors(Some(seed), |n| {
            Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        });
        let bytes: Vec<u8> = numbers.skip(1).take(length).map(|number| (number >> 56) as u8).collect();
        vec![bytes.into()]
    }

    async fn made<N: Eq + Hash + Clone>(variants: &Variants<N>, name: N, chunks: Vec<Bytes>) -> Variant {
        let background = Handle::current();
        variants.get_or_make((name, Encoding::Zstd), (), Bytes::new(), chunks, &background).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_made_is_kept_and_given_again() {
        let variants = Variants::default();
        let (one, other) = tokio::join!(
            made(&variants, "large", noise(AT_ONCE + 1, 1)),
            made(&variants, "large", noise(AT_ONCE + 1, 1))
        );
        assert_eq!(one.body.as_ptr(), other.body.as_ptr());
        let small = made(&variants, "small", noise(1000, 1)).await;
        let again = variants.get(&("small", Encoding::Zstd)).unwrap();
        assert_eq!(small.body.as_ptr(), again.body.as_ptr());
        assert!(variants.get(&("small", Encoding::Gzip)).is_none());
        assert_eq!(variants.bytes(), one.body.len() + small.body.len() + 2 * OVERHEAD);
    }

    #[tokio::test]
    async fn who_cannot_wait_has_what_is_large_made_aside() {
        let variants = Arc::new(Variants::default());
        let begin = || variants.get_or_begin((7, Encoding::Gzip), &Bytes::new(), &noise(AT_ONCE + 1, 1));
        assert!(begin().is_none());
        while begin().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(variants.get_or_begin((8, Encoding::Gzip), &Bytes::new(), &noise(AT_ONCE, 1)).is_some());
    }

    #[tokio::test]
    async fn what_nobody_asks_for_makes_room_first() {
        let variants = Variants::within(100_000, 1);
        for name in 0..3 {
            made(&variants, name, noise(30_000, name)).await;
        }
        let asked = variants.get(&(0, Encoding::Zstd)).unwrap();
        made(&variants, 3, noise(30_000, 3)).await;
        let known: Vec<_> = (0..4).filter(|name| variants.get(&(*name, Encoding::Zstd)).is_some()).collect();
        assert_eq!(known, [0, 2, 3]);
        assert!(variants.bytes() <= 100_000);
        let large = made(&variants, 4, noise(200_000, 4)).await;
        assert_eq!(variants.bytes(), large.body.len() + OVERHEAD);
        drop(asked);
    }

    #[tokio::test]
    async fn what_was_dropped_is_counted_for_those_who_still_read_it() {
        let variants = Variants::within(100_000, 1);
        let loans = Loans::new(InForce::with(|settings| settings.limits.buffered_bytes = 100_000));
        let client = Some(IpAddr::from([1, 1, 1, 1]));
        let lend = |variant: &Variant| loans.lend(client, variant.lent.clone().unwrap());
        let first = made(&variants, 0, noise(60_000, 0)).await;
        let reading = lend(&first).unwrap();
        assert!(lend(&first).is_ok(), "what is kept costs nothing");
        let second = made(&variants, 1, noise(60_000, 1)).await;
        assert!(lend(&second).is_err(), "the first one was dropped, and is still read");
        drop(reading);
        let reading = lend(&second).unwrap();
        drop(variants);
        assert!(lend(&second).is_err(), "its content was replaced");
        drop(reading);
        assert!(lend(&second).is_ok());
    }
}
