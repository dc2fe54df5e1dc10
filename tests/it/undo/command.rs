//! The same from the command line.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::World;

fn ask(world: &World, command: &str, arguments: &[&str]) -> Output {
    let bucket = world.bucket.strip_prefix("/buckets/").unwrap();
    Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["history", command, "--from", &world.sidecar.url(), "--set", "sidecar.auth=alice:secret"])
        .args(["--bucket", bucket])
        .args(arguments)
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_running_sidecar_is_asked_to_undo_something_once_it_is_meant() {
    let world = World::new("command").await;
    world.alice.put(&world.record("a")).data(json!({"n": 1})).await.expect(201);
    let moment = world.now().await.to_string();
    for n in 0..3 {
        world.alice.put(&world.record(&format!("r{n}"))).data(json!({"n": n})).await.expect(201);
    }
    world.alice.put(&world.record("a")).data(json!({"n": 2})).await.expect(200);
    let output = ask(&world, "diff", &["--since", &moment, "--where", "_limit=3"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output).len(), 4);
    let output = ask(&world, "revert", &["--since", &moment, "--where", "record_id=a", "--reason", "why"]);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--yes"),
        "{output:?}"
    );
    assert_eq!(lines(&output)[0]["status"], "planned");
    let output =
        ask(&world, "revert", &["--since", &moment, "--where", "record_id=a", "--reason", "why", "--yes"]);
    assert!(output.status.success(), "{output:?}");
    let state = world.state().await;
    assert_eq!((state.len(), &state["a"]["n"]), (4, &json!(1)));
    let output = ask(&world, "restore", &["--collection", "c", "--to", &moment, "--yes"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.state().await.len(), 1);
    let output = ask(&world, "revert", &["--entry", "nothing"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
