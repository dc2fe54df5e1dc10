//! Whose turn it is to have a large answer to a question of the sidecar's own read.
//!
//! SECURITY: one is read at once. Two, and what one client may have held meanwhile, would come to more than 150 MiB. Clients have
//! their turns one after the other, however many questions each of them is the reason for: whoever asks for much waits for
//! themselves.

use std::sync::LazyLock;

use crate::wire::turns::{ClientTurn, Turns};

/// All turns.
static TURNS: LazyLock<Turns> = LazyLock::new(|| Turns::at(1));

/// Waits for a turn for what this task is about.
pub(super) async fn turn() -> ClientTurn {
    TURNS.next(1).await
}
