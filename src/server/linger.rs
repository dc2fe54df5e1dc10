//! Closes a connection so that its client gets the last answer.
//!
//! A socket that is closed while its client still sends is reset, and a reset takes away what the client has not read yet.
//! So first only the sending side is closed, and what comes is read and thrown away until the client has understood.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// What a client that does not stop gets.
#[derive(Clone, Copy)]
struct Bounds {
    bytes: u64,
    time: Duration,
    /// How long nothing may come.
    pause: Duration,
}

const BOUNDS: Bounds =
    Bounds { bytes: 256 << 20, time: Duration::from_secs(30), pause: Duration::from_secs(5) };
const BUFFER: usize = 64 << 10;

/// Closes the sending side, and waits for the client to close its own.
pub(super) async fn close(stream: impl AsyncRead + AsyncWrite + Unpin) {
    close_within(stream, BOUNDS).await;
}

async fn close_within(mut stream: impl AsyncRead + AsyncWrite + Unpin, bounds: Bounds) {
    // What fails was closed by the client.
    let _ = timeout(bounds.time, async {
        stream.shutdown().await?;
        let mut stream = stream.take(bounds.bytes);
        let mut buffer = vec![0; BUFFER];
        while timeout(bounds.pause, stream.read(&mut buffer)).await?? > 0 {}
        Ok::<_, std::io::Error>(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_is_told_at_once_and_waited_for() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let closed = tokio::spawn(close(server));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        client.write_all(&vec![0; 1 << 16]).await.unwrap();
        assert!(!closed.is_finished());
        drop(client);
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_stop_is_let_go() {
        let moment = Duration::from_millis(20);
        for bounds in [
            Bounds { bytes: 1 << 16, ..BOUNDS },
            Bounds { time: moment, ..BOUNDS },
            Bounds { pause: moment, ..BOUNDS },
        ] {
            let (mut client, server) = tokio::io::duplex(1 << 10);
            let closed = tokio::spawn(close_within(server, bounds));
            if bounds.pause > moment {
                while client.write_all(&[0; 1 << 10]).await.is_ok() {}
            }
            closed.await.unwrap();
        }
    }
}
