//! Which paths are whose, in every spelling.

use super::*;

fn route(path: &str) -> Route {
    Route::of(path, &Settings::default())
}

fn feed(subject: Subject) -> Route {
    Route::Own(Endpoint::Feed(subject))
}

#[test]
fn own_paths_are_known() {
    assert_eq!(route("/v1/"), Route::Root);
    assert_eq!(route("/v1/batch"), Route::Batch);
    assert_eq!(route("/v1/__broadcasts__"), Route::Own(Endpoint::Broadcasts));
    assert_eq!(
        route("/v1/buckets/monitor/collections/changes/records"),
        Route::Own(Endpoint::MonitorChanges)
    );
    assert_eq!(
        route("/v1/buckets/monitor/collections/changes/changeset"),
        Route::Own(Endpoint::MonitorChangeset)
    );
    assert_eq!(
        route("/v1/buckets/a/collections/b/changeset"),
        Route::Own(Endpoint::Changeset(CollectionKey::new("a", "b")))
    );
    assert_eq!(route("/v1/buckets/a/history"), Route::Own(Endpoint::History("a".to_owned())));
    for (leaf, endpoint) in [
        ("diff", Endpoint::Diff("a".to_owned())),
        ("revert", Endpoint::Revert("a".to_owned())),
        ("deleted", Endpoint::Bin("a".to_owned())),
    ] {
        assert_eq!(route(&format!("/v1/buckets/a/history/{leaf}")), Route::Own(endpoint));
    }
    assert_eq!(
        route("/v1/buckets/a/snapshot/collections/b@12"),
        Route::Own(Endpoint::Snapshot(CollectionKey::new("a", "b"), "12".to_owned()))
    );
}

#[test]
fn each_endpoint_says_which_methods_it_knows() {
    let knows = |path: &str| match route(path) {
        Route::Own(endpoint) => ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
            .into_iter()
            .filter(|method| endpoint.manners().knows(&method.parse().unwrap()))
            .collect::<Vec<_>>()
            .join(" "),
        _ => unreachable!(),
    };
    for path in ["monitor/collections/changes/records", "monitor/collections/changes/changeset"] {
        assert_eq!(knows(&format!("/v1/buckets/{path}")), "GET HEAD");
    }
    assert_eq!(knows("/v1/buckets/a/collections/b/changeset"), "GET HEAD");
    assert_eq!(knows("/v1/buckets/a/history"), "GET HEAD DELETE");
    assert_eq!(knows("/v1/buckets/a/_changes"), "GET HEAD POST");
}

#[test]
fn ids_are_decoded() {
    let changeset =
        |bucket, collection| Route::Own(Endpoint::Changeset(CollectionKey::new(bucket, collection)));
    for (path, bucket, collection) in [
        ("/v1/buckets/a.b/collections/x@example.org/changeset", "a.b", "x@example.org"),
        ("/v1/buckets/a%2Eb/collections/x%40example.org/changeset", "a.b", "x@example.org"),
        ("/v1/buckets/_a/collections/%C3%A9%20%25%22/changeset", "_a", "é %\""),
        ("/v1/buckets/%61/collections/b;c/changeset", "a", "b;c"),
        ("/v1/buckets/a/collections/%2525/changeset", "a", "%25"),
    ] {
        assert_eq!(route(path), changeset(bucket, collection), "{path}");
    }
    assert_eq!(route("/v1/buckets/%C3%A9/history"), Route::Own(Endpoint::History("é".to_owned())));
    assert_eq!(route("/v1/buckets/a.b/_changes"), feed(Subject::Bucket("a.b".into())));
    for path in ["/v1/buckets/a/snapshot/collections/b@1@2", "/v1/buckets/a/snapshot/collections/b%401%402"] {
        let key = CollectionKey::new("a", "b@1");
        assert_eq!(route(path), Route::Own(Endpoint::Snapshot(key, "2".to_owned())), "{path}");
    }
}

#[test]
fn feeds_are_known_whoever_answers_for_changes() {
    let settings = Settings { changes_mode: ChangesMode::Off, ..Settings::default() };
    let key = CollectionKey::new("a", "b");
    for (path, known) in [
        ("/v1/buckets/a/collections/b/_changes", feed(Subject::Collection(key.clone()))),
        ("/v1/buckets/a/collections/b//_changes", feed(Subject::Collection(key.clone()))),
        (
            "/v1/buckets/a/collections/b/_local/x%3D",
            Route::Own(Endpoint::Replication(key.clone(), Replication::Checkpoint("x=".to_owned()))),
        ),
        ("/v1/buckets/a/_changes", feed(Subject::Bucket("a".into()))),
        ("/v1/buckets/a/collections/b/", Route::Own(Endpoint::Database(key))),
    ] {
        assert_eq!(route(path), known);
        assert_eq!(Route::of(path, &settings), known);
    }
    assert_eq!(route("/v1/_changes"), feed(Subject::Monitor));
    assert_eq!(Route::of("/v1/_changes", &settings), Route::Forward);
    let history = feed(Subject::History("a".into(), View::Everything));
    assert_eq!(Route::of("/v1/buckets/a/history/_changes", &settings), history);
    let settings = Settings { history_mode: HistoryMode::Off, ..Settings::default() };
    assert_eq!(Route::of("/v1/buckets/a/history/_changes", &settings), Route::Forward);
}

#[test]
fn any_other_spelling_is_forwarded() {
    for path in [
        "/",
        "/v1",
        "/v2/",
        "/v1//buckets/a/collections/b/changeset",
        "/v1/buckets/a/collections/b/changeset/",
        "/v1/buckets/a%2Fb/collections/b/changeset",
        "/v1/bucket%73/a/collections/b/changeset",
        "/v1/buckets/a/collections/%/changeset",
        "/v1/buckets/a/collections/%4/changeset",
        "/v1/buckets/a/collections/%ff/changeset",
        "/v1/buckets/a/collections/%00/changeset",
        "/v1/buckets/a/collections/é/changeset",
        "/v1/buckets/a\\b/collections/c/changeset",
        "/v1/buckets/%2e%2e/collections/c/changeset",
        "/v1/buckets/a/collections/../changeset",
        "/V1/buckets/a/collections/b/changeset",
        "/v1/buckets/monitor/collections/changes/records/x",
        "/v1/buckets/a/collections/b/records",
        "/v1/buckets/a/history/",
        "/v1/buckets/a/history/x",
        "/v1/buckets/a/collections/history",
        "/v1/buckets/a/snapshot/collections/b",
        "/v1/buckets/a/snapshot/collections/b@",
        "/v1/buckets/a/snapshot/collections/b@12/",
        "/v1/buckets/a/snapshot/collections/@1",
        "/v1/buckets/a/collections/b/_changes/",
        "/v1/buckets/a/collections/b/records/_changes",
        "/v1/buckets/a/_changes/",
        "/v1/buckets/a/",
        "/v1/_changes/",
        "/_changes",
    ] {
        assert_eq!(route(path), Route::Forward, "{path}");
    }
    let Route::Own(Endpoint::Replication(_, asked)) = route("/v1/buckets/a/collections/b/Changeset") else {
        panic!("it could be a document")
    };
    assert!(!asked.is_asked(None) && !asked.is_asked(Some("_expected=0")));
    assert!(asked.is_asked(Some("revs=true&open_revs=all")));
}

#[test]
fn what_is_switched_off_is_forwarded() {
    let (changeset, history) = ("/v1/buckets/a/collections/b/changeset", "/v1/buckets/a/history");
    let no_changes = Settings { changes_mode: ChangesMode::Off, ..Settings::default() };
    assert_eq!(Route::of(changeset, &no_changes), Route::Forward);
    assert_eq!(Route::of("/v1/__broadcasts__", &no_changes), Route::Forward);
    assert_ne!(Route::of(history, &no_changes), Route::Forward);
    assert_eq!(Route::of("/v1/batch", &no_changes), Route::Batch);
    for history_mode in [HistoryMode::Upstream, HistoryMode::Off] {
        let no_history = Settings { history_mode, ..Settings::default() };
        assert_eq!(Route::of(history, &no_history), Route::Forward);
        assert_ne!(Route::of(changeset, &no_history), Route::Forward);
        let neither = Settings { history_mode, ..no_changes.clone() };
        for path in [changeset, history, "/v1/", "/v1/batch", "/v1/__api__"] {
            assert_eq!(Route::of(path, &neither), Route::Forward, "{path}");
        }
    }
}
