//! The history that the sidecar keeps: what is recorded, by whom, what is read, and that nothing is lost.

mod anew;
pub mod compare;
mod doubt;
mod elsewhere;
mod failover;
mod failure;
pub mod full;
mod given_up;
mod ids;
mod implicit;
mod indexes;
mod kept;
mod kill;
mod odd;
mod others;
mod plugin;
mod reading;
mod recorded;
mod remade;
mod shared;
mod spelling;
mod transfer;
mod unkept;
mod upgrade;
pub mod writers;

use serde_json::Value;

use super::support::Client;

/// All entries of a bucket that a client may see, oldest first.
pub async fn entries(client: &Client, bucket: &str) -> Vec<Value> {
    client.all(&path_of(bucket)).await
}

/// The path of them.
fn path_of(bucket: &str) -> String {
    format!("{bucket}/history?_sort=last_modified")
}
