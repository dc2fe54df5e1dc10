//! What other sidecars on the same journal record is known here at once: timestamps and permissions.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::journal::News;
use crate::observe::Observer;

/// Tells `observer` what others record, until the journal is closed.
pub(super) async fn follow(mut news: Receiver<News>, observer: Arc<Observer>) {
    loop {
        match news.recv().await {
            // Some of what others recorded may have been missed.
            Ok(news) if news.is_foreign && news.objects.is_empty() => observer.heard_of_everything(),
            Ok(news) if news.is_foreign => {
                for (object, timestamp) in &news.objects {
                    observer.heard(object, *timestamp).await;
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => observer.heard_of_everything(),
            Err(RecvError::Closed) => return,
        }
    }
}
