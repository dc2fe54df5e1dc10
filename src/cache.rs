//! What is kept for a while, in bounded room.
//!
//! The work is [`moka`]'s, which is compiled anew for each type of keys and of values, at a hundred kilobytes each. Here it is
//! compiled once: what it keeps are the hashes of keys, and values of any type, each with its key beside it.

use std::any::Any;
use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Values by their keys. Clones are one cache.
pub(crate) struct Cache<K, V> {
    kept: Kept,
    keys: RandomState,
    weigh: fn(&K, &V) -> usize,
    lifetime: Option<fn(&V) -> Duration>,
}

/// How much a cache keeps, and for how long.
pub(crate) struct Builder<K, V> {
    kept: moka::sync::CacheBuilder<u64, Entry, moka::sync::Cache<u64, Entry>>,
    weigh: fn(&K, &V) -> usize,
    lifetime: Option<fn(&V) -> Duration>,
}

type Kept = moka::sync::Cache<u64, Entry, BuildHasherDefault<Same>>;

/// What is to be kept in place of what is there.
type Changed<'c> = Box<dyn FnOnce(Option<moka::Entry<u64, Entry>>) -> Entry + 'c>;

#[derive(Clone)]
struct Entry {
    /// Key and value.
    pair: Arc<dyn Any + Send + Sync>,
    weight: u32,
    lifetime: Option<Duration>,
}

/// How long each value is kept.
struct Lifetimes;

/// The hash of a hash.
#[derive(Default)]
struct Same(u64);

// === impl Cache ===

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// So many values are kept at most.
    pub(crate) fn builder(most: u64) -> Builder<K, V> {
        Builder {
            kept: moka::sync::Cache::builder().max_capacity(most).weigher(|_, entry: &Entry| entry.weight),
            weigh: |_, _| 1,
            lifetime: None,
        }
    }

    /// The value of a key.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.kept.get(&self.keys.hash_one(key))?.value::<K, V, Q>(key)
    }

    /// Whether there is a value of a key.
    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.kept.contains_key(&self.keys.hash_one(key))
    }

    /// The value of a key, which is made where there is none. Those who come meanwhile wait for it.
    pub(crate) fn get_with<Q>(&self, key: &Q, make: impl Fn() -> V) -> V
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        // Boxed, so that this is compiled once for all who make something.
        let made: Box<dyn FnOnce() -> Entry + '_> = Box::new(|| self.entry(key.to_owned(), make()));
        let entry = self.kept.get_with(self.keys.hash_one(key), made);
        entry.value::<K, V, Q>(key).unwrap_or_else(make)
    }

    /// Keeps a value.
    pub(crate) fn insert(&self, key: K, value: V) {
        self.kept.insert(self.keys.hash_one(&key), self.entry(key, value));
    }

    /// Keeps a value where there is none of its key. Whether there was none.
    pub(crate) fn insert_new(&self, key: K, value: V) -> bool {
        self.kept.entry(self.keys.hash_one(&key)).or_insert(self.entry(key, value)).is_fresh()
    }

    /// Keeps what `change` makes of a key's value. Nobody else changes it meanwhile.
    pub(crate) fn upsert(&self, key: K, change: impl Fn(Option<V>) -> V) {
        let name = self.keys.hash_one(&key);
        let changed: Changed<'_> = Box::new(move |known: Option<moka::Entry<u64, Entry>>| {
            let value = change(known.and_then(|known| known.into_value().value::<K, V, K>(&key)));
            self.entry(key, value)
        });
        self.kept.entry(name).and_upsert_with(changed);
    }

    /// Drops the value of a key.
    pub(crate) fn invalidate(&self, key: &K) {
        self.kept.invalidate(&self.keys.hash_one(key));
    }

    /// All values.
    pub(crate) fn values(&self) -> impl Iterator<Item = V> {
        self.kept.iter().filter_map(|(_, entry)| {
            let (_, value) = entry.pair.downcast_ref::<(K, V)>()?;
            Some(value.clone())
        })
    }

    /// What all values weigh together, as they were weighed when they came.
    pub(crate) fn weight(&self) -> u64 {
        self.kept.weighted_size()
    }

    fn entry(&self, key: K, value: V) -> Entry {
        let weight = u32::try_from((self.weigh)(&key, &value)).unwrap_or(u32::MAX);
        let lifetime = self.lifetime.map(|lifetime| lifetime(&value));
        Entry { pair: Arc::new((key, value)), weight, lifetime }
    }

    /// How many values there are, once those are dropped for which there is no room.
    #[cfg(test)]
    pub(crate) fn settled(&self) -> u64 {
        self.kept.run_pending_tasks();
        self.kept.entry_count()
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { kept: self.kept.clone(), keys: self.keys.clone(), weigh: self.weigh, lifetime: self.lifetime }
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cache({})", self.kept.entry_count())
    }
}

// === impl Builder ===

impl<K, V> Builder<K, V> {
    /// What a value weighs where it is not 1.
    pub(crate) fn weigher(self, weigh: fn(&K, &V) -> usize) -> Self {
        Self { weigh, ..self }
    }

    /// For how long a value is kept that nobody asks for.
    pub(crate) fn time_to_idle(self, time: Duration) -> Self {
        Self { kept: self.kept.time_to_idle(time), ..self }
    }

    /// For how long a value is kept.
    pub(crate) fn time_to_live(self, time: Duration) -> Self {
        Self { kept: self.kept.time_to_live(time), ..self }
    }

    /// For how long each value is kept, by what it is.
    pub(crate) fn lifetime(self, lifetime: fn(&V) -> Duration) -> Self {
        Self { kept: self.kept.expire_after(Lifetimes), lifetime: Some(lifetime), ..self }
    }

    /// Nothing is kept yet.
    pub(crate) fn build(self) -> Cache<K, V> {
        let Self { kept, weigh, lifetime } = self;
        Cache {
            kept: kept.build_with_hasher(BuildHasherDefault::default()),
            keys: RandomState::new(),
            weigh,
            lifetime,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// The value, where it is that of this key: two keys may have one hash.
    fn value<K, V, Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q> + 'static,
        V: Clone + 'static,
        Q: Eq + ?Sized,
    {
        let (its, value) = self.pair.downcast_ref::<(K, V)>()?;
        (Borrow::<Q>::borrow(its) == key).then(|| value.clone())
    }
}

impl moka::Expiry<u64, Entry> for Lifetimes {
    fn expire_after_create(&self, _: &u64, entry: &Entry, _: Instant) -> Option<Duration> {
        entry.lifetime
    }

    fn expire_after_update(
        &self,
        _: &u64,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        entry.lifetime
    }
}

// === impl Same ===

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_by_its_key_and_made_once() {
        let cache: Cache<String, u32> = Cache::builder(10).build();
        assert_eq!((cache.get("a"), cache.get_with("a", || 1), cache.get_with("a", || 2)), (None, 1, 1));
        assert!(!cache.insert_new("a".to_owned(), 3) && cache.insert_new("b".to_owned(), 3));
        cache.upsert("a".to_owned(), |known| known.unwrap_or_default() + 10);
        cache.upsert("c".to_owned(), |known| known.unwrap_or_default() + 10);
        let mut values: Vec<u32> = cache.values().collect();
        values.sort_unstable();
        assert_eq!(values, [3, 10, 11]);
        cache.invalidate(&"a".to_owned());
        assert_eq!((cache.get("a"), cache.clone().get("b")), (None, Some(3)));
        assert!(cache.contains_key(&"b".to_owned()) && !cache.contains_key(&"a".to_owned()));
    }

    #[test]
    fn keys_of_one_hash_are_not_taken_for_each_other() {
        #[derive(Clone, PartialEq, Eq)]
        struct Alike(u32);
        impl Hash for Alike {
            fn hash<H: Hasher>(&self, state: &mut H) {
                0.hash(state);
            }
        }
        let cache: Cache<Alike, u32> = Cache::builder(10).build();
        cache.insert(Alike(1), 1);
        assert_eq!(cache.get(&Alike(2)), None);
        assert_eq!(cache.get_with(&Alike(2), || 2), 2);
        cache.upsert(Alike(2), |known| known.unwrap_or(20));
        assert_eq!((cache.get(&Alike(1)), cache.get(&Alike(2))), (None, Some(20)));
    }

    #[test]
    fn what_is_kept_is_bounded_by_weight_and_by_time() {
        let cache: Cache<u32, usize> = Cache::builder(100).weigher(|_, weight| *weight).build();
        for key in 0..50 {
            cache.insert(key, 10);
        }
        assert!((1..=10).contains(&cache.settled()), "{}", cache.settled());
        assert_eq!(cache.weight(), cache.settled() * 10);
        let by_value = |value: &u32| Duration::from_secs(60 * u64::from(*value));
        let cache: Cache<u32, u32> = Cache::builder(100).lifetime(by_value).build();
        cache.insert(0, 0);
        cache.insert(1, 1);
        assert_eq!((cache.get(&0), cache.get(&1)), (None, Some(1)));
    }
}
