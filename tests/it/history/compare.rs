//! A history, held against what its clients were told and what Kinto has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::path_of;
use super::writers::{Seen, Written};
use crate::support::{Kinto, PATIENCE, Sidecar, eventually};

/// Compares the history with what was acknowledged and with what Kinto has; gives its entries.
pub async fn compare(
    kinto: &Kinto,
    sidecar: &Sidecar,
    bucket: &str,
    seen: &Seen,
    authors: &HashMap<String, String>,
) -> Vec<Value> {
    let collection = format!("{bucket}/collections/c");
    let reader = sidecar.client().user("alice");
    let direct = kinto.client().user("alice");
    let version = |entry: &Value| {
        let modified = entry["target"]["data"]["last_modified"].as_u64().unwrap();
        (entry["uri"].as_str().unwrap().to_owned(), modified)
    };
    // What a failure is about, as those who wrote it and the history tell it.
    let story = |uri: &str, list: &[Value]| {
        let told = seen.acknowledged.iter().filter(|written| written.uri == uri);
        let past = seen.past.iter().filter(|(told, _)| told == uri);
        let unanswered = seen.unanswered.iter().filter(|(told, _)| told == uri);
        let entries: Vec<_> = list.iter().filter(|entry| entry["uri"] == uri).map(Value::to_string).collect();
        format!(
            "acknowledged {:#?}, elsewhere {:#?}, unanswered {:#?}, authors {authors:#?}, entries {entries:#?}",
            told.collect::<Vec<_>>(),
            past.collect::<Vec<_>>(),
            unanswered.collect::<Vec<_>>(),
        )
    };
    // What a process that is no more left open may be waited for for half a minute.
    let until = Instant::now() + 2 * PATIENCE;
    let list = loop {
        // What a killed sidecar had sent may be written yet, over what was there.
        let present = direct.all(&format!("{collection}/records?_since=0&_fields=last_modified")).await;
        let present: Vec<_> = present
            .iter()
            .map(|record| {
                let uri = format!("{collection}/records/{}", record["id"].as_str().unwrap());
                (uri, record["last_modified"].as_u64().unwrap())
            })
            .collect();
        // Where a machine has much else to do, Kinto may be given up on.
        let list = eventually("a history", async || reader.try_all(&path_of(bucket)).await.ok()).await;
        let versions: HashSet<_> = list.iter().map(version).collect();
        let Some(missing) = present.iter().find(|version| !versions.contains(*version)) else { break list };
        assert!(Instant::now() < until, "{missing:?} is not in the history: {}", story(&missing.0, &list));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let acknowledged: HashSet<_> =
        seen.acknowledged.iter().map(|written| (written.uri.clone(), written.version)).collect();
    let mut history: HashMap<(String, u64), Vec<&Value>> = HashMap::new();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &list {
        let version = version(entry);
        // Kinto may give two writes of one object at the same moment the same version.
        let is_of_another =
            |known: &Value| known["user_id"] != entry["user_id"] || known["target"] != entry["target"];
        let recorded = history.entry(version.clone()).or_default();
        assert!(recorded.iter().all(|known| is_of_another(known)), "{version:?} is recorded twice");
        recorded.push(entry);
        // It takes the version of a write before it waits for others of the same object: what was in nobody's answer may
        // have come over something newer.
        if !acknowledged.contains(&version) {
            continue;
        }
        let before = newest.insert(version.0.clone(), version.1);
        assert!(
            before <= Some(version.1),
            "{version:?} stands behind {before:?}: {}",
            story(&version.0, &list)
        );
    }
    for Written { uri, version, user, how } in &seen.acknowledged {
        let entries = history.get(&(uri.clone(), *version));
        let is_theirs = |entry: &&Value| entry["user_id"] == authors[user].as_str();
        assert!(
            entries.is_some_and(|entries| entries.iter().any(is_theirs)),
            "{how} of {user}: {uri} {version} was acknowledged and is not in the history: {}",
            story(uri, &list)
        );
    }
    let entries =
        history.iter().flat_map(|(version, entries)| entries.iter().map(move |entry| (version, *entry)));
    for (version, entry) in entries.filter(|(_, entry)| entry["resource_name"] == "record") {
        let author = &entry["user_id"];
        if let Some(user) = entry["target"]["data"]["by"].as_str() {
            assert_eq!(*author, authors[user].as_str(), "{entry:#}");
        } else if !acknowledged.contains(version) {
            // Nobody's, or of somebody who may have written just that and was not told.
            let is_of = |user: &String| seen.unanswered.contains(&(version.0.clone(), user.clone()));
            let may_be = authors.iter().any(|(user, id)| author == id.as_str() && is_of(user));
            assert!(author.is_null() || may_be, "{entry:#}");
        }
    }
    list
}
