//! Writers of the same records, whose requests are obeyed and answered in any order.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::ETAG;
use parking_lot::Mutex;
use serde_json::Value;

use crate::chance::Chance;
use crate::kinto::{Kinto, RECORDS};
use crate::sidecar::{Alive, TICK, ask, request};

/// How often time may move with nothing else to be done, before it is said that something never ends.
const TICKS: usize = 10_000;
/// After how many short steps of time longer ones are taken, and how long those are.
const SHORT: usize = 50;
const LONG_TICK: Duration = Duration::from_millis(500);

/// A write that some client sends.
#[derive(Debug, Clone)]
pub struct Op {
    pub deletes: bool,
    pub id: &'static str,
    pub number: usize,
}

/// Somebody who sends one write after the other.
#[derive(Debug)]
pub struct Writer {
    pub name: String,
    pub ops: Vec<Op>,
    pub sent: usize,
    pub is_waiting: bool,
}

/// An answer that a client has: the record, and its version where one was made.
#[derive(Debug, Clone)]
pub struct Answered {
    pub id: &'static str,
    pub status: u16,
    pub modified: Option<u64>,
}

/// Everything that outlives the sidecar.
#[derive(Debug)]
pub struct World {
    pub folder: tempfile::TempDir,
    pub kinto: Arc<Mutex<Kinto>>,
    pub writers: Vec<Writer>,
    pub answered: Vec<Answered>,
    /// Answers that just came, and whose they are.
    pub arrived: Arc<Mutex<Vec<(usize, Answered)>>>,
    pub trace: Vec<String>,
}

/// One life of a sidecar. It ends when all is written, or before step `end`, as by a kill.
pub async fn live(
    world: &mut World,
    chance: &mut Chance,
    life: usize,
    end: Option<usize>,
) -> Result<Option<Vec<Value>>, String> {
    let settings = ["sidecar.history=journal", "sidecar.exclusive=true"];
    let alive = Alive::begin(world.folder.path(), &world.kinto, life, &settings).await;
    let mut ticks = 0;
    let mut steps = 0;
    loop {
        alive.settle().await;
        for (writer, answered) in std::mem::take(&mut *world.arrived.lock()) {
            world
                .trace
                .push(format!("{} has {} {:?}", world.writers[writer].name, answered.status, answered.id));
            world.writers[writer].is_waiting = false;
            world.answered.push(answered);
        }
        if end == Some(steps) {
            world.die(&alive, chance);
            return Ok(None);
        }
        steps += 1;
        let idle: Vec<usize> = (0..world.writers.len())
            .filter(|writer| {
                !world.writers[*writer].is_waiting
                    && world.writers[*writer].sent < world.writers[*writer].ops.len()
            })
            .collect();
        let mut pending = alive.hub.take();
        let choices = idle.len() + pending.len();
        if choices == 0 {
            let is_over = world.writers.iter().all(|writer| !writer.is_waiting);
            let journal = alive.journal.as_ref().unwrap();
            // Time may have moved while SQLite was at work, so that it came too late.
            let is_settled = journal.open_groups(None).await.is_ok_and(|open| open.is_empty());
            if is_over && is_settled {
                return Ok(Some(history(&alive).await));
            }
            ticks += 1;
            if ticks > TICKS {
                return Err("something never ends".to_owned());
            }
            // What takes half a minute, such as what is looked up again when Kinto has surely done with it, is worth longer steps.
            tokio::time::advance(if ticks > SHORT { LONG_TICK } else { TICK }).await;
            continue;
        }
        let choice = chance.roll(choices);
        if let Some(writer) = idle.get(choice) {
            world.send(&alive, *writer);
        } else {
            let next = pending.remove(choice - idle.len());
            let breaks = next.label.starts_with('w') && chance.is(4);
            world.trace.push(format!("{}{}", if breaks { "breaks: " } else { "" }, next.label));
            _ = next.go.send(!breaks);
        }
        alive.hub.put_back(pending);
        if chance.is(5) {
            tokio::time::advance(TICK).await;
        }
    }
}

impl World {
    /// A client sends its next write.
    fn send(&mut self, alive: &Alive, index: usize) {
        let writer = &mut self.writers[index];
        let op = writer.ops[writer.sent].clone();
        writer.sent += 1;
        writer.is_waiting = true;
        let method = if op.deletes { Method::DELETE } else { Method::PUT };
        let name = &writer.name;
        self.trace.push(format!("{name} sends {method} {}", op.id));
        let body =
            if op.deletes { String::new() } else { format!(r#"{{"data":{{"by":"{name}.{}"}}}}"#, op.number) };
        let request = request(method, &format!("/v1{RECORDS}/{}", op.id), name, body);
        let (core, hub) = (Arc::clone(&alive.core), Arc::clone(&alive.hub));
        let arrived = Arc::clone(&self.arrived);
        tokio::spawn(async move {
            let Some(answer) = ask(core, request).await else {
                return;
            };
            let etag =
                answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok()?.trim_matches('"').parse().ok());
            let modified = etag.filter(|_| answer.status().is_success());
            let answered = Answered { id: op.id, status: answer.status().as_u16(), modified };
            arrived.lock().push((index, answered));
            hub.note();
        });
    }

    /// The process is killed. What Kinto had of it is obeyed, or not.
    fn die(&mut self, alive: &Alive, chance: &mut Chance) {
        self.trace.push("killed".to_owned());
        for pending in alive.hub.take() {
            if let Some((request, body)) = pending.write.filter(|_| chance.is(50)) {
                self.trace.push(format!("{}, after all", pending.label));
                self.kinto.lock().answer(&request, &body);
            }
        }
        for writer in &mut self.writers {
            writer.is_waiting = false;
        }
    }
}

/// The entries about records, the oldest first.
async fn history(alive: &Alive) -> Vec<Value> {
    let path = "/v1/buckets/b/history?_sort=last_modified&resource_name=record";
    loop {
        let answer = alive.ask(request(Method::GET, path, "reader", String::new())).await;
        // As above.
        if answer.status().is_success() {
            let body: Value = serde_json::from_slice(answer.body()).unwrap();
            return body["data"].as_array().unwrap().clone();
        }
    }
}
