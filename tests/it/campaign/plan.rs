//! What goes wrong, step by step, out of a seed.

use std::time::Duration;

use crate::mirror_equals_upstream::random::Random;
use crate::support::storm::{Storm, Trouble};

/// What is wrong on a way for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fair,
    Stormy(Storm),
    /// Connections are reset, and none is taken.
    Cut,
    /// Connections are taken, and nothing passes.
    Stalled,
}

/// What happens in the middle of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The sidecar is killed, and started again until it runs.
    Kill,
    /// It is stopped for so long as by a debugger.
    Pause(Duration),
    /// Kinto ends, and is started again after so long.
    RestartKinto(Duration),
    /// PostgreSQL ends the connections of Kinto.
    DisconnectKinto,
    /// PostgreSQL ends those of the journal.
    DisconnectJournal,
    /// The sidecar's clock is ahead by so many seconds from now on.
    SidecarClock(i64),
    /// The clocks of Kinto and of its PostgreSQL are.
    KintoClock(i64),
}

/// How far clocks are ahead, in seconds.
const AHEAD: [i64; 7] = [-3600, -30, -2, 0, 2, 30, 3600];

/// What goes wrong at once.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub to_kinto: Weather,
    pub to_journal: Weather,
    /// One of so many writes to the journal's disk fails.
    pub disk: Option<u64>,
    pub event: Option<Event>,
    pub lasts: Duration,
    /// How long nothing is wrong afterwards.
    pub pause: Duration,
}

#[derive(Debug)]
pub struct Plan(Random);

impl Plan {
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub fn next(&mut self, has_disk: bool, journal_is_far: bool) -> Step {
        const TO_KINTO: [Trouble; 7] = [
            Trouble::Delay,
            Trouble::Cut,
            Trouble::Truncate,
            Trouble::Duplicate,
            Trouble::Garble,
            Trouble::Refuse,
            Trouble::Swallow,
        ];
        const TO_JOURNAL: [Trouble; 5] =
            [Trouble::Delay, Trouble::Cut, Trouble::Truncate, Trouble::Refuse, Trouble::Swallow];
        // All is drawn always, so that a plan is the same with and without a disk that fails.
        let (to_kinto, to_journal) = (self.weather(55, &TO_KINTO), self.weather(35, &TO_JOURNAL));
        let disk = self.is(50).then(|| self.0.below(8) + 1);
        let pause = self.milliseconds(50, 1_200);
        let ahead = AHEAD[usize::try_from(self.0.below(AHEAD.len() as u64)).unwrap()];
        let event = match self.0.below(100) {
            0..30 => Some(Event::Kill),
            30..42 => Some(Event::Pause(pause)),
            42..48 => Some(Event::RestartKinto(pause)),
            48..60 => Some(Event::DisconnectKinto),
            60..72 => Some(Event::DisconnectJournal).filter(|_| journal_is_far),
            72..80 => Some(Event::SidecarClock(ahead)),
            80..86 => Some(Event::KintoClock(ahead)),
            _ => None,
        };
        Step {
            to_kinto,
            to_journal: if journal_is_far { to_journal } else { Weather::Fair },
            disk: disk.filter(|_| has_disk),
            event,
            lasts: self.milliseconds(100, 1_200),
            pause: self.milliseconds(0, 1_000),
        }
    }

    fn is(&mut self, percent: u64) -> bool {
        self.0.below(100) < percent
    }

    fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.0.below(most - least))
    }

    fn weather(&mut self, percent: u64, troubles: &[Trouble]) -> Weather {
        let trouble = troubles[usize::try_from(self.0.below(troubles.len() as u64)).unwrap()];
        let storm = Storm { trouble, one_of: 1 + self.0.below(20) };
        match (self.is(percent), self.0.below(10)) {
            (false, _) => Weather::Fair,
            (true, 0) => Weather::Cut,
            (true, 1) => Weather::Stalled,
            _ => Weather::Stormy(storm),
        }
    }
}
