//! Two servers over the same writes: a Kinto with the plugin, and the sidecar in front of a plain one.
//!
//! Writers name their timestamps, a minute ahead of the clock, so that both servers have the very same.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Client, Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Sidecar};

/// The collection behind which the list of timestamps is.
pub(crate) const MONITOR: &str = "/buckets/monitor/collections/changes";

/// Where everything is monitored from.
const RESOURCES: &str = "/buckets/a /buckets/b/collections/one";

/// The two servers, and what was written to them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plugin: Client,
    pub(crate) sidecar: Client,
    begin: u64,
    _servers: (Kinto, Kinto, Sidecar),
}

impl World {
    /// The world of all tests that only read.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<World> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(&[])).await
    }

    /// A world of one's own, with settings that both servers get.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let common = [("http_host", "www.example.org"), ("changes.resources", RESOURCES)];
        let settings: Vec<(&str, &str)> = common.iter().chain(settings).copied().collect();
        let kinto = |options: KintoOptions| {
            let add = |options: KintoOptions, (key, value): &(&str, &str)| {
                options.setting(&format!("kinto.{key}"), value)
            };
            Kinto::start(settings.iter().fold(options, add))
        };
        let with_plugin = kinto(KintoOptions::memory().plugin(Plugin::Changes));
        let plain = kinto(KintoOptions::memory());
        let of_sidecar: Vec<(&str, &str)> =
            settings.iter().copied().chain([SERVICE_ACCOUNT, ("sidecar.history", "off")]).collect();
        let sidecar = Sidecar::start(plain.url(), &of_sidecar);
        let world = Self {
            plugin: with_plugin.client(),
            sidecar: sidecar.client(),
            begin: now_ms() + 60_000,
            _servers: (with_plugin, plain, sidecar),
        };
        // What a list has when it is first looked at is repeated for a while: look at it while there is nothing in it.
        let list = world.sidecar.get(&format!("{MONITOR}/records")).await.expect(200);
        assert_eq!(list.data(), json!([]));
        for server in world.servers() {
            world.write(server).await;
        }
        world
    }

    pub(crate) fn servers(&self) -> [&Client; 2] {
        [&self.plugin, &self.sidecar]
    }

    /// The n-th timestamp: 1 to 4 are those of `a/one`, `a/two`, `a/three` and `b/one`, in this order.
    pub(crate) fn timestamp(&self, n: u64) -> u64 {
        self.begin + 10 * n
    }

    /// A text with the world's timestamps in place of `{1}` to `{4}`.
    pub(crate) fn fill(&self, text: &str) -> String {
        (1..=4).fold(text.to_owned(), |text, n| {
            text.replace(&format!("{{{n}}}"), &self.timestamp(n).to_string())
        })
    }

    /// A record of the n-th timestamp.
    pub(crate) fn record(&self, n: u64) -> Value {
        json!({"last_modified": self.timestamp(n), "n": n, "text": "é\u{1F600}\"", "x": 1.50})
    }

    async fn write(&self, server: &Client) {
        let reader = server.user("reader").get("/").await.expect(200).json()["user"]["id"].clone();
        let owner = server.user("owner");
        let everyone = json!({"permissions": {"read": ["system.Everyone"]}});
        owner.put("/buckets/a").json(everyone).await.expect(201);
        owner.put("/buckets/b").await.expect(201);
        let collections = [
            ("/buckets/a/collections/one", json!({"sort": "-age", "pi": 3.25})),
            ("/buckets/a/collections/two", json!({})),
            ("/buckets/a/collections/three", json!({})),
            ("/buckets/b/collections/one", json!({})),
            ("/buckets/b/collections/hidden", json!({})),
        ];
        for (modified, (path, mut data)) in (self.begin - 1000..).zip(collections) {
            data["last_modified"] = json!(modified);
            let readers = if path == "/buckets/b/collections/one" { vec![&reader] } else { Vec::new() };
            let body = json!({"data": data, "permissions": {"read": readers}});
            owner.put(path).json(body).await.expect(201);
        }
        let one = "/buckets/a/collections/one/records";
        for n in 1..=3 {
            let older = json!({"last_modified": self.begin + n, "n": n});
            owner.put(&format!("{one}/r{n}")).data(older).await.expect(201);
        }
        // The tombstone is the newest of its collection.
        let gone = format!("{one}/r2?last_modified={}", self.timestamp(1));
        owner.delete(&gone).await.expect(200);
        for (n, path) in [
            (2, "a/collections/two"),
            (3, "a/collections/three"),
            (4, "b/collections/one"),
            (2, "b/collections/hidden"),
        ] {
            owner.put(&format!("/buckets/{path}/records/r1")).data(self.record(n)).await.expect(201);
        }
    }
}

fn now_ms() -> u64 {
    let elapsed = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(elapsed.as_millis()).unwrap()
}
