//! What a storm does to pieces of what passes: some are late, some are lost, some come twice.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::mirror_equals_upstream::random::Random;

/// How long a piece that is swallowed keeps its connection waiting.
const SWALLOWED: Duration = Duration::from_secs(6);

/// What happens to pieces, or to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// They are late.
    Delay,
    /// The connection is reset in the middle of them.
    Cut,
    /// The connection ends in the middle of them as if that were the end.
    Truncate,
    /// They come twice.
    Duplicate,
    /// Bytes in them are no longer of UTF-8, so that nobody can take them for what they were not.
    Garble,
    /// No connection is taken.
    Refuse,
    /// They never come, and the connection stays.
    Swallow,
}

/// One of so many pieces is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    pub trouble: Trouble,
    pub one_of: u64,
}

/// What becomes of a piece. A number says where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Delay(Duration),
    Cut(u64),
    Truncate(u64),
    Duplicate,
    Garble(u64),
    Swallow,
}

static DICE: LazyLock<Mutex<Random>> = LazyLock::new(|| Mutex::new(Random::new(0)));
static TROUBLES: AtomicU64 = AtomicU64::new(0);

/// Which pieces are in trouble follows from this.
pub fn seed(seed: u64) {
    *DICE.lock() = Random::new(seed);
}

/// How many pieces and connections were in trouble.
pub fn troubles() -> u64 {
    TROUBLES.load(Ordering::Relaxed)
}

impl Storm {
    fn strikes(self) -> bool {
        let strikes = DICE.lock().below(self.one_of) == 0;
        TROUBLES.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }

    /// Whether a connection is refused.
    pub fn refuses(self) -> bool {
        self.trouble == Trouble::Refuse && self.strikes()
    }

    /// What becomes of a piece of a question. What is written stays what was sent, or does not come.
    pub fn upward(&self) -> Fate {
        match self.trouble {
            Trouble::Delay | Trouble::Cut | Trouble::Truncate | Trouble::Swallow => self.downward(),
            Trouble::Duplicate | Trouble::Garble | Trouble::Refuse => Fate::Pass,
        }
    }

    /// What becomes of a piece of an answer.
    pub fn downward(&self) -> Fate {
        if self.trouble == Trouble::Refuse || !self.strikes() {
            return Fate::Pass;
        }
        let number = DICE.lock().next();
        match self.trouble {
            Trouble::Delay => Fate::Delay(Duration::from_millis(number % 700)),
            Trouble::Cut => Fate::Cut(number),
            Trouble::Truncate => Fate::Truncate(number),
            Trouble::Duplicate => Fate::Duplicate,
            Trouble::Garble => Fate::Garble(number),
            Trouble::Swallow => Fate::Swallow,
            Trouble::Refuse => Fate::Pass,
        }
    }
}

/// Lets a piece have its fate; whether the connection goes on.
pub async fn pass_on(to: &mut (impl AsyncWrite + Unpin), piece: &mut [u8], fate: Fate) -> bool {
    let within = |number: u64| usize::try_from(number % piece.len() as u64).unwrap();
    match fate {
        Fate::Pass => to.write_all(piece).await.is_ok(),
        Fate::Delay(time) => {
            tokio::time::sleep(time).await;
            to.write_all(piece).await.is_ok()
        }
        Fate::Cut(at) | Fate::Truncate(at) => {
            let _ = to.write_all(&piece[..within(at)]).await;
            false
        }
        Fate::Duplicate => to.write_all(&[&*piece, &*piece].concat()).await.is_ok(),
        Fate::Garble(at) => {
            let at = within(at);
            piece[at] = 0xff;
            to.write_all(piece).await.is_ok()
        }
        Fate::Swallow => {
            tokio::time::sleep(SWALLOWED).await;
            false
        }
    }
}
