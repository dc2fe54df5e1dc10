//! The places of rows in feeds: timestamps, and what was found late among those who had the newest one already.
//!
//! A row that becomes visible behind the newest timestamp `T` has a place after it, so that whoever has `T` is told of it
//! and goes on from a greater seq than they came with. The thousandths say three things:
//!
//! - how many times something was found late since `T`,
//! - which sidecar told of it last: one in [`TELLERS`], chosen by lot,
//! - whether another one had told of it before.
//!
//! Another sidecar may have found other rows late, or the same in another order. So who comes with a seq of another sidecar is
//! told again of what may have been hidden from them, and goes on from a seq that says so. From there they are told again
//! only when something else is to be told, or their time is over: between two sidecars nobody is sent to and fro at once.
//!
//! Three decimals: a double holds no more at today's timestamps.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::Timestamp;

/// How many sidecars can be told apart.
const TELLERS: u16 = 8;

/// How many seqs there are for each find.
const EACH: u16 = TELLERS * 2;

/// The last fraction, in thousandths: what is found late beyond it has no place of its own.
const LAST: u16 = 999;

static TELLER: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(lot() % TELLERS));

fn lot() -> u16 {
    u16::from(uuid::Uuid::new_v4().into_bytes()[0])
}

/// A place in the order of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq {
    /// The newest timestamp by then.
    pub at: Timestamp,
    /// The place among what became visible late since, in thousandths.
    part: u16,
}

impl Seq {
    /// Before everything.
    pub const ZERO: Self = Self::of(Timestamp::ZERO);

    /// The place of what became visible in time.
    pub const fn of(at: Timestamp) -> Self {
        Self { at, part: 0 }
    }

    /// The last place before the next timestamp.
    pub const fn end_of(at: Timestamp) -> Self {
        Self { at, part: LAST }
    }

    /// The place right before this one.
    #[must_use]
    pub fn before(self) -> Self {
        match self.part.checked_sub(1) {
            Some(part) => Self { part, ..self },
            None => self.at.0.checked_sub(1).map_or(self, |at| Self::end_of(Timestamp(at))),
        }
    }

    /// The place of what this sidecar found late when this was the newest; the same where there is no further one.
    #[must_use]
    pub fn found_after(self) -> Self {
        let finds = self.part.saturating_sub(1) / EACH;
        self.with((finds + 1) * EACH + TELLER.load(Ordering::Relaxed))
    }

    /// The same, after all that any reader has: this is the newest place that this sidecar has given, and others may have
    /// given one that it has `heard` of.
    #[must_use]
    pub fn found_after_all(self, heard: Self) -> Self {
        let others = if heard.at == self.at { heard } else { self };
        self.max(others).found_after()
    }

    /// The place of somebody who came with this one, and was told again of what may have been hidden from them.
    #[must_use]
    pub fn told_again(self) -> Self {
        let teller = TELLER.load(Ordering::Relaxed);
        match self.part.checked_sub(1) {
            None => self.with(teller),
            Some(_) if self.was_told() => self,
            Some(told) => self.with(told / EACH * EACH + TELLERS + teller),
        }
    }

    /// Whether this is a place that this sidecar gave, unless another one goes by the same number.
    pub fn is_own(self) -> bool {
        self.part > 0 && self.part < LAST && (self.part - 1) % TELLERS == TELLER.load(Ordering::Relaxed)
    }

    /// Whether whoever has this place was told by this sidecar, or by two others, of what may have been hidden from them.
    fn was_told(self) -> bool {
        self.part == LAST || self.is_own() || self.part > 0 && (self.part - 1) % EACH >= TELLERS
    }

    /// Somebody has this place, the newest that this sidecar has given is `newest`, or one that it has `heard` of: whether
    /// what it finds late has to go beyond.
    pub fn is_news(self, newest: Self, heard: Self) -> bool {
        self.at == newest.at && self > newest.max(heard)
    }

    /// Another sidecar gave this place: if it goes by the same number, this one goes by another from then on.
    pub(super) fn disown(self) {
        if self.is_own() {
            let others = 1 + lot() % (TELLERS - 1);
            TELLER.store((TELLER.load(Ordering::Relaxed) + others) % TELLERS, Ordering::Relaxed);
        }
    }

    fn with(self, place: u16) -> Self {
        Self { part: (place + 1).min(LAST), ..self }
    }

    /// Whether this is the greater one also as a double, which is what most clients make of it.
    pub fn is_beyond(self, other: Self) -> bool {
        self.number() > other.number()
    }

    /// Reads digits, with a fraction or not.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let thousandths = format!("{:0<3}", fraction.get(..3).unwrap_or(fraction));
        // What no timestamp is, is after all of them.
        let at = Timestamp(whole.parse().unwrap_or(u64::MAX));
        Some(Self { at, part: thousandths.parse().ok()? })
    }

    /// The seq as a JSON number.
    pub fn json(self) -> serde_json::Value {
        if self.part == 0 { self.at.0.into() } else { self.number().into() }
    }

    #[expect(clippy::cast_precision_loss, reason = "that is what doubles do")]
    fn number(self) -> f64 {
        self.at.0 as f64 + f64::from(self.part) / 1000.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => self.at.fmt(formatter),
            part => write!(formatter, "{}.{part:03}", self.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_245_800_000);

    #[test]
    fn seqs_are_numbers_in_their_order() {
        let mut seq = Seq::of(NOW);
        for _ in 0..60 {
            for next in [seq.told_again(), seq.found_after()] {
                assert!(next.is_beyond(seq) || next == seq && seq.was_told(), "{next} after {seq}");
                assert_eq!(Seq::parse(&next.to_string()), Some(next));
                assert_eq!(Seq::parse(&next.json().to_string()), Some(next));
                assert!(next.was_told());
                seq = next;
            }
        }
        assert!(Seq::of(Timestamp(NOW.0 + 1)).is_beyond(seq));
        assert_eq!(Seq::end_of(NOW).found_after(), Seq::end_of(NOW));
        assert!(Seq::end_of(NOW).was_told());
    }

    #[test]
    fn who_was_told_by_another_is_told_again_once() {
        let mine = Seq::of(NOW).found_after();
        let this = (mine.part - 1) % TELLERS;
        let theirs = Seq { part: mine.part - this + (this + 1) % TELLERS, ..mine };
        assert!(!theirs.was_told());
        let both = theirs.told_again();
        assert!(both > theirs && both.was_told() && both < theirs.found_after());
        let again_there = Seq { part: both.part - this + (this + 1) % TELLERS, ..both };
        assert!(again_there.was_told(), "this sidecar had told before");
    }

    #[test]
    fn seqs_are_read_as_clients_write_them() {
        assert_eq!(Seq::parse("7"), Some(Seq::of(Timestamp(7))));
        let fourth = Seq { at: Timestamp(7), part: 4 };
        assert_eq!(Seq::parse("7.004"), Some(fourth));
        assert_eq!(Seq::parse("7.0040"), Some(fourth));
        assert_eq!(Seq::parse("7.5").map(|seq| seq.to_string()), Some("7.500".to_owned()));
        assert_eq!(Seq::parse("7.0"), Seq::parse("7"));
        assert_eq!(Seq::parse("7.0019"), Seq::parse("7.001"));
        assert_eq!(Seq::parse("99999999999999999999"), Some(Seq::of(Timestamp(u64::MAX))));
        for text in ["", ".", "7.", ".5", "-1", "1e3", "7.x", "7.1.2"] {
            assert_eq!(Seq::parse(text), None, "{text}");
        }
    }
}
