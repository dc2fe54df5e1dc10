//! Kinto goes back in the midst of it all: it is started again empty, or as an older backup has it. What it had since is lost
//! there, and the history of that is not: of an empty one, it is kept and hidden from whoever makes the bucket anew.
//!
//! Whoever keeps a position from before begins anew, so nobody follows here.

use std::collections::{BTreeMap, HashSet};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::plan::{Event, Plan};
use super::truth::{self, Truth};
use super::world::{World, make};
use super::{Story, recovery, seeds};
use crate::history::compare::compare;
use crate::history::writers::{Seen, Writers};
use crate::mirror_equals_upstream::random::Random;
use crate::stale::is_marked;
use crate::support::{PATIENCE, commit, storm};

/// Where Kinto keeps all that it has.
const TABLES: [&str; 4] = ["objects", "timestamps", "access_control_entries", "user_principals"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_kinto_goes_back_nothing_of_its_history_is_lost_and_what_it_has_is_shown() {
    seeds(play).await;
}

async fn play(seed: u64, time: Duration) {
    let begun = Instant::now();
    let mut story = Story::new(seed);
    storm::seed(seed);
    let (mut plan, mut random) = (Plan::new(seed), Random::new(seed));
    let is_emptied = random.below(2) == 0;
    let mut world = World::begin_with(seed, &[("sidecar.verify_every", "3s")]).await;
    let truth = Truth::watch(&world.storage).await;
    let mut writers =
        Writers::begin(world.kinto(), &world.past(), world.sidecar.address(), &world.collection, seed).await;

    suffer(&mut world, &mut plan, &mut story, time / 3).await;
    back_up(&world.storage).await;
    suffer(&mut world, &mut plan, &mut story, time / 3).await;
    story.tell(if is_emptied { "Kinto is emptied" } else { "Kinto has its backup" });
    let mut back = 0;
    world.restart_kinto(async |storage| back = go_back(storage, is_emptied).await).await;
    if is_emptied {
        let client = if random.below(2) == 0 { world.alice() } else { world.kinto().client().user("alice") };
        make(&client, &world.bucket, &world.collection).await;
    }
    suffer(&mut world, &mut plan, &mut story, time / 3).await;

    story.tell("calm");
    world.calm();
    world.set_clocks().await;
    recovery::is_good(&world).await;
    writers.end().await;
    let mut seen = std::mem::take(&mut *writers.seen.lock());
    let (written, author) = recovery::news_come_at_once(&world).await;
    writers.authors.insert(written.user.clone(), author);
    seen.acknowledged.push(written);
    assert!(seen.wrong.is_empty(), "{} answers are wrong: {}", seen.wrong.len(), seen.wrong[0]);
    let (requests, acknowledged) = (seen.requests, seen.acknowledged.len());
    if is_emptied {
        are_kept(&world, &seen, back);
        seen.acknowledged.retain(|written| written.version >= back);
    }
    let entries = compare(world.kinto(), &world.sidecar, &world.bucket, &seen, &writers.authors).await;
    truth::compare(&entries, &truth.all(&world).await);
    if is_emptied {
        let version = |entry: &Value| entry["target"]["data"]["last_modified"].as_u64().unwrap();
        let shown = entries.iter().find(|entry| version(entry) < back);
        assert!(
            shown.is_none(),
            "what was before {back} is shown in the bucket that was made anew: {shown:?}"
        );
    }
    shows_what_kinto_has(&world).await;
    println!(
        "SEED={seed}, commit {}, journal in {}, {}: {requests} requests, {acknowledged} writes acknowledged; {} steps, {}; {:?}",
        commit(),
        if world.journal_is_far() { "PostgreSQL" } else { "SQLite" },
        if is_emptied { "emptied" } else { "an older backup" },
        story.length(),
        world.sums(),
        begun.elapsed(),
    );
}

/// Lets things go wrong for so long. Versions that are before others in time have to have lower numbers, so Kinto's clock is right.
async fn suffer(world: &mut World, plan: &mut Plan, story: &mut Story, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        let mut step = plan.next(world.has_disk(), world.journal_is_far());
        step.event = step.event.filter(|event| !matches!(event, Event::KintoClock(_)));
        story.tell(&format!("{step:?}"));
        world.suffer(step).await;
    }
}

/// Keeps what Kinto has at one moment.
async fn back_up(storage: &str) {
    let mut connection = PgConnection::connect(storage).await.unwrap();
    let copies = TABLES.map(|table| format!("CREATE TABLE backup_{table} AS TABLE {table};")).concat();
    let copied = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {copies} COMMIT");
    connection.execute(sqlx::AssertSqlSafe(copied)).await.unwrap();
}

/// Has the database of a Kinto that does not run be empty, or as it was; gives when, in milliseconds.
async fn go_back(storage: &str, is_emptied: bool) -> u64 {
    let mut connection = PgConnection::connect(storage).await.unwrap();
    let tables = TABLES.join(", ");
    let restored = TABLES.map(|table| format!("INSERT INTO {table} TABLE backup_{table};")).concat();
    let restored = if is_emptied { String::new() } else { restored };
    let back =
        format!("BEGIN; SET LOCAL session_replication_role = replica; TRUNCATE {tables}; {restored} COMMIT");
    connection.execute(sqlx::AssertSqlSafe(back)).await.unwrap();
    let now = "SELECT as_epoch(clock_timestamp()::timestamp)";
    let row = sqlx::query(now).fetch_one(&mut connection).await.unwrap();
    row.get::<i64, _>(0).try_into().unwrap()
}

/// Fails unless the journal has what was acknowledged before a moment.
fn are_kept(world: &World, seen: &Seen, before: u64) {
    let output = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["history", "export", "--journal", &world.journal_url()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let kept: HashSet<(String, u64)> = text
        .lines()
        .filter_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let entry = line.get("entry")?;
            let modified = entry["target"]["data"]["last_modified"].as_u64()?;
            Some((entry["uri"].as_str()?.to_owned(), modified))
        })
        .collect();
    for written in seen.acknowledged.iter().filter(|written| written.version < before) {
        assert!(kept.contains(&(written.uri.clone(), written.version)), "{written:?} is in no history");
    }
}

/// Waits until those who begin now are shown what Kinto has, in a changeset and in a feed.
async fn shows_what_kinto_has(world: &World) {
    let client = world.alice();
    let live = |rows: &[Value]| -> BTreeMap<String, Value> {
        let live = rows.iter().filter(|row| row["deleted"] != true && row["_deleted"] != true);
        live.map(|row| {
            let mut row = row.clone();
            row.as_object_mut().unwrap().retain(|name, _| !name.starts_with('_'));
            (row["id"].as_str().unwrap().to_owned(), row)
        })
        .collect()
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let direct = world.kinto().client().user("alice");
        let there = live(&direct.all(&format!("{}/records", world.collection)).await);
        let changeset = client.get(&format!("{}/changeset?_expected=0", world.collection)).await;
        let feed = client.get(&format!("{}/_changes?include_docs=true", world.collection)).await;
        let is_fresh = changeset.status == 200 && !is_marked(&changeset);
        let (rows, told) = (changeset.json()["changes"].clone(), feed.json()["results"].clone());
        let told: Vec<Value> = told.as_array().into_iter().flatten().map(|row| row["doc"].clone()).collect();
        let (rows, told) = (live(rows.as_array().map_or(&[], Vec::as_slice)), live(&told));
        if is_fresh && rows == there && told == there {
            return;
        }
        let differs = |shown: &BTreeMap<String, Value>| {
            let all: HashSet<&String> = shown.keys().chain(there.keys()).collect();
            let of = all.into_iter().find(|id| shown.get(*id) != there.get(*id));
            of.map(|id| format!("{:?} where Kinto has {:?}", shown.get(id), there.get(id)))
        };
        assert!(
            Instant::now() < until,
            "the changeset shows {:?}, the feed {:?}",
            differs(&rows),
            differs(&told)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
