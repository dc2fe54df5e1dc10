//! Two servers with the same histories.
//!
//! Writers name the timestamps of what they write, so that both servers have the very same objects.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::parity::ask::Ask;
use crate::parity::compare::differences;
use crate::support::{
    Client, Kinto, KintoOptions, Plugin, Request, Response, SERVICE_ACCOUNT, Sidecar, database,
};

/// The bucket that most of it is about.
pub(super) const BUCKET: &str = "/buckets/a";

/// When the first object was written.
const BEGIN: u64 = 1_600_000_000_000;

/// Everybody who has a part in it.
pub(super) const USERS: [Option<&str>; 10] = [
    None,
    Some("owner"),
    Some("bucket-reader"),
    Some("bucket-writer"),
    Some("collection-creator"),
    Some("collection-reader"),
    Some("record-creator"),
    Some("record-writer"),
    Some("group-reader"),
    Some("stranger"),
];

/// The two servers.
pub(super) struct World {
    pub(super) plugin: Side,
    pub(super) sidecar: Side,
    servers: (Kinto, Kinto, Sidecar),
}

/// One of them.
pub(super) struct Side {
    pub(super) client: Client,
    /// Ids and timestamps of the bucket's entries, oldest first.
    entries: Vec<(String, u64)>,
}

impl World {
    /// The world of all tests that only read.
    pub(super) async fn shared() -> &'static Self {
        static SHARED: OnceCell<World> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(&[])).await
    }

    /// That world, and one whose journal is in PostgreSQL.
    pub(super) async fn on_each_engine() -> [&'static Self; 2] {
        static ON_POSTGRES: OnceCell<World> = OnceCell::const_new();
        let start = async || Self::start_with(&[], &[("sidecar.journal", &database())]).await;
        [Self::shared().await, ON_POSTGRES.get_or_init(start).await]
    }

    /// A world of one's own, with settings that both servers get.
    pub(super) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings, settings).await
    }

    /// A world of one's own with settings for Kinto, and some for the sidecar.
    pub(super) async fn start_with(settings: &[(&str, &str)], of_sidecar: &[(&str, &str)]) -> Self {
        let kinto = |options: KintoOptions| {
            let host = options.setting("kinto.http_host", "www.example.org");
            let add = |options: KintoOptions, (key, value): &(&str, &str)| {
                options.setting(&format!("kinto.{key}"), value)
            };
            Kinto::start(settings.iter().fold(host, add))
        };
        let (with_plugin, plain) =
            (kinto(KintoOptions::memory().plugin(Plugin::History)), kinto(KintoOptions::memory()));
        let common = [SERVICE_ACCOUNT, ("http_host", "www.example.org")];
        let of_sidecar: Vec<(&str, &str)> = common.iter().chain(of_sidecar).copied().collect();
        let sidecar = Sidecar::start(plain.url(), &of_sidecar);
        let side = |client| Side { client, entries: Vec::new() };
        let mut world = Self {
            plugin: side(with_plugin.client()),
            sidecar: side(sidecar.client()),
            servers: (with_plugin, plain, sidecar),
        };
        for side in [&mut world.plugin, &mut world.sidecar] {
            write(&side.client).await;
            side.look().await;
        }
        world
    }

    /// Sends each request to both and fails with all differences.
    pub(super) async fn assert_same(&self, asks: impl IntoIterator<Item = Ask>) {
        let mut report = String::new();
        for ask in asks {
            let (plugin, sidecar) = (self.plugin.ask(&ask).await, self.sidecar.ask(&ask).await);
            let found = differences(&ask, &plugin, &sidecar);
            if !found.is_empty() {
                report.push_str(&format!("{ask}\n    {}\n", found.join("\n    ")));
            }
        }
        assert!(report.is_empty(), "the plugin and the sidecar differ (plugin first):\n{report}");
    }

    /// A client that writes behind the sidecar's back.
    pub(super) fn past_the_sidecar(&self) -> Client {
        self.servers.1.client()
    }

    /// Sends a write to both.
    pub(super) async fn write(&self, user: &str, send: impl Fn(Client) -> Request) {
        for side in [&self.plugin, &self.sidecar] {
            let answer = send(side.client.user(user)).await;
            assert!(answer.status < 300, "{answer}");
        }
    }
}

impl Side {
    /// Learns which entries there are.
    pub(super) async fn look(&mut self) {
        let reader = self.client.user("bucket-reader");
        let mut next = Some(format!("{BUCKET}/history?_sort=last_modified"));
        self.entries.clear();
        while let Some(path) = next {
            let page = reader.get(&path).await.expect(200);
            let name = |entry: &Value| {
                (entry["id"].as_str().unwrap().to_owned(), entry["last_modified"].as_u64().unwrap())
            };
            self.entries.extend(page.data().as_array().unwrap().iter().map(name));
            let path = |address: &str| address.split_once("/v1").unwrap().1.to_owned();
            next = page.header("next-page").map(path);
        }
    }

    /// The timestamp of its newest entry.
    pub(super) fn newest(&self) -> u64 {
        self.entries.last().unwrap().1
    }

    /// Asks this server, and names what is its own in the answer.
    pub(super) async fn ask(&self, ask: &Ask) -> Response {
        let ask = ask.map(|text| self.fill(text));
        let mut answer = ask.send(&self.client).await;
        answer.body = self.blind(&String::from_utf8_lossy(&answer.body)).into();
        for name in ["etag", "next-page"] {
            if let Some(value) = answer.header(name) {
                let value = self.blind(value);
                answer.headers.insert(name, value.parse().unwrap());
            }
        }
        if answer.headers.contains_key("last-modified") {
            assert!(answer.headers.contains_key("etag"), "{answer}");
            answer.headers.insert("last-modified", "a date".parse().unwrap());
        }
        answer
    }

    /// A text with `{n}` replaced by the timestamp of the n-th entry, and `{#n}` by its id.
    fn fill(&self, text: &str) -> String {
        let entries = self.entries.iter().enumerate();
        let text = entries.fold(text.to_owned(), |text, (n, (id, modified))| {
            text.replace(&format!("{{{n}}}"), &modified.to_string()).replace(&format!("{{#{n}}}"), id)
        });
        text.replace("{last}", &self.newest().to_string())
    }

    /// The opposite; dates are gone, too.
    fn blind(&self, text: &str) -> String {
        let entries = self.entries.iter().enumerate();
        let text = entries.fold(text.to_owned(), |text, (n, (id, modified))| {
            text.replace(&modified.to_string(), &(1000 + n).to_string()).replace(id, &format!("id-{n}"))
        });
        let Ok(mut document) = serde_json::from_str::<Value>(&text) else { return text };
        let rows = document.get_mut("data").and_then(Value::as_array_mut);
        for entry in rows.into_iter().flatten() {
            if let Some(date) = entry.get_mut("date") {
                *date = json!("a date");
            }
            let permissions = entry.pointer_mut("/target/permissions").and_then(Value::as_object_mut);
            for principals in permissions.into_iter().flat_map(|permissions| permissions.values_mut()) {
                principals.as_array_mut().unwrap().sort_by_key(Value::to_string);
            }
        }
        document.to_string()
    }
}

/// The user's id, which is the same on both.
pub(super) async fn id_of(client: &Client, user: &str) -> Value {
    client.user(user).get("/").await.expect(200).json()["user"]["id"].clone()
}

async fn write(client: &Client) {
    let owner = client.user("owner");
    let readers = |user: &'static str| async move { json!([id_of(client, user).await]) };
    let mut clock = BEGIN;
    let mut stamped = |mut data: Value| {
        clock += 10;
        data["last_modified"] = json!(clock);
        data
    };
    let bucket = json!({
        "data": stamped(json!({"colour": "red"})),
        "permissions": {
            "read": readers("bucket-reader").await,
            "write": readers("bucket-writer").await,
            "collection:create": readers("collection-creator").await,
        },
    });
    let made = client.user("bucket-writer").put(BUCKET).json(bucket).await;
    assert!(made.status < 300, "{made}");
    let owner_too = json!({"data": stamped(json!({})), "permissions": {"write": readers("owner").await}});
    let path = BUCKET;
    client.user("bucket-writer").patch(path).json(owner_too).await.expect(200);
    for (path, data, permissions) in [
        ("/groups/g", json!({"members": ["basicauth:x"]}), json!({"read": readers("group-reader").await})),
        ("/groups/0", json!({"members": []}), json!({})),
        (
            "/collections/c",
            json!({"status": "signed"}),
            json!({"read": readers("collection-reader").await, "record:create": readers("record-creator").await}),
        ),
        ("/collections/7", json!({}), json!({})),
        ("/collections/public", json!({}), json!({"read": ["system.Everyone"]})),
        (
            "/collections/c/records/r",
            json!({"n": 1, "a.b": [1, "x"]}),
            json!({"write": readers("record-writer").await}),
        ),
        ("/collections/c/records/2", json!({"n": 2, "text": "é\u{1F600}\"\\", "pi": 3.25}), json!({})),
        ("/collections/c/records/shared", json!({"n": null}), json!({"read": ["system.Authenticated"]})),
        ("/collections/public/records/p", json!({"n": 4}), json!({})),
        (
            "/collections/c/records/r",
            json!({"n": 5, "nested": {"deep": {"er": true}}}),
            json!({"write": readers("record-writer").await}),
        ),
    ] {
        let body = json!({"data": stamped(data), "permissions": permissions});
        let answer = owner.put(&format!("{BUCKET}{path}")).json(body).await;
        assert!(answer.status < 300, "{answer}");
    }
    let record = format!("{BUCKET}/collections/c/records/r");
    client.user("record-writer").patch(&record).data(stamped(json!({"n": 6}))).await.expect(200);
    let gone = stamped(json!({}))["last_modified"].clone();
    owner.delete(&format!("{BUCKET}/collections/c/records/2?last_modified={gone}")).await.expect(200);
    let again = json!({"data": stamped(json!({"n": 8}))});
    owner.put(&format!("{BUCKET}/collections/c/records/2")).json(again).await.expect(201);
    client
        .user("record-creator")
        .put(&format!("{BUCKET}/collections/c/records/made"))
        .data(stamped(json!({"n": 9})))
        .await
        .expect(201);
}
