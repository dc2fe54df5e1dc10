//! A sidecar between clients, a Kinto and a journal, each of which can fail.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::clock;
use super::kinto;
use super::machine::Machine;
use super::plan::{Event, Step, Weather};
use crate::support::{
    Chaos, Client, Kinto, PATIENCE, SERVICE_ACCOUNT, Sidecar, address_of, database, eventually, unique,
};

/// What its file is called, which [`Machine`] knows.
const JOURNAL: &str = "journal.db";

pub struct World {
    kinto: Option<Kinto>,
    /// The database of Kinto, and that of the journal where it is one.
    pub storage: String,
    journal: Option<String>,
    to_kinto: Chaos,
    /// Leads to Kinto, too, and nothing happens there.
    past: Chaos,
    to_journal: Option<Chaos>,
    /// What the sidecar is on, and what Kinto is.
    machine: Option<Machine>,
    kintos_machine: Option<Machine>,
    pub sidecar: Sidecar,
    pub bucket: String,
    pub collection: String,
    kills: usize,
    events: usize,
    folder: TempDir,
}

impl World {
    pub async fn begin(seed: u64) -> Self {
        Self::begin_with(seed, &[]).await
    }

    /// With further settings.
    pub async fn begin_with(seed: u64, further: &[(&str, &str)]) -> Self {
        let storage = database();
        let folder = tempfile::tempdir().unwrap();
        let [machine, kintos_machine] = ["machine", "kintos"].map(|name| Machine::named(name, folder.path()));
        let kinto = block_in_place(|| kinto(&storage, kintos_machine.as_ref()));
        clock::follow(&storage).await;
        let (to_kinto, past) = (Chaos::before(kinto.url()), Chaos::before(kinto.url()));
        let path = folder.path().join(JOURNAL);
        let (mut journal, mut to_journal) = (None, None);
        let url = if seed.is_multiple_of(2) {
            format!("sqlite:{}", path.display())
        } else {
            let url = database();
            let (way, through) = Chaos::before_database(&url);
            (journal, to_journal) = (Some(url), Some(way));
            through
        };
        let bucket = format!("/buckets/{}", unique("campaign"));
        let log = std::env::var("LOG").unwrap_or_else(|_| "info,kinto_sidecar::access=off".to_owned());
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.history", "journal"),
            ("sidecar.journal", &*url),
            ("sidecar.state_dir", folder.path().to_str().unwrap()),
            ("sidecar.admin_listen", "127.0.0.1:0"),
            ("sidecar.timestamps_ttl", "100ms"),
            ("sidecar.poll_budget", "100%"),
            ("sidecar.overlap", "3s"),
            ("sidecar.upstream_timeout", "3s"),
            ("sidecar.upstream_connect_timeout", "1s"),
            ("sidecar.log", &log),
            ("changes.resources", &bucket),
            ("history.resources", &bucket),
        ];
        let settings = [&settings[..], further].concat();
        let starter = machine.as_ref().map(Machine::beside).unwrap_or_default();
        let sidecar = block_in_place(|| Sidecar::start_by(starter, to_kinto.url(), &settings));
        let alice = sidecar.client().user("alice");
        let collection = format!("{bucket}/collections/c");
        make(&alice, &bucket, &collection).await;
        // Kinto may fail for those who are the first to ask for the timestamp of a collection.
        kinto.client().user("alice").put(&format!("{collection}/records/first")).await.expect(201);
        Self {
            kinto: Some(kinto),
            storage,
            journal,
            to_kinto,
            past,
            to_journal,
            machine,
            kintos_machine,
            sidecar,
            bucket,
            collection,
            kills: 0,
            events: 0,
            folder,
        }
    }

    /// Where the journal is, without anything between.
    pub fn journal_url(&self) -> String {
        let file = || format!("sqlite:{}", self.folder.path().join(JOURNAL).display());
        self.journal.clone().unwrap_or_else(file)
    }

    pub fn kinto(&self) -> &Kinto {
        self.kinto.as_ref().unwrap()
    }

    /// `host:port` of Kinto for those who write past the sidecar, wherever it listens after a restart.
    pub fn past(&self) -> String {
        address_of(&self.past.url())
    }

    /// Somebody who may do everything, through the sidecar.
    pub fn alice(&self) -> Client {
        Client::new(self.sidecar.address()).user("alice")
    }

    pub fn has_disk(&self) -> bool {
        self.machine.is_some() && !self.journal_is_far()
    }

    pub fn journal_is_far(&self) -> bool {
        self.journal.is_some()
    }

    /// What was done to it.
    pub fn sums(&self) -> String {
        let failures = self.machine.as_ref().map_or(0, Machine::failures);
        format!("{} kills and {} other events, {failures} failures of the disk", self.kills, self.events)
    }

    /// Lets a step go wrong.
    pub async fn suffer(&mut self, step: Step) {
        set(&self.to_kinto, step.to_kinto);
        if let Some(way) = &self.to_journal {
            set(way, step.to_journal);
        }
        if let Some(machine) = &self.machine {
            machine.fail_one_of(step.disk.unwrap_or(0));
        }
        tokio::time::sleep(step.lasts / 2).await;
        if let Some(event) = step.event {
            self.happen(event).await;
        }
        tokio::time::sleep(step.lasts / 2).await;
        if let Some(status) = self.sidecar.ended() {
            panic!("the sidecar ended by itself: {status}");
        }
        self.calm();
        tokio::time::sleep(step.pause).await;
    }

    /// From now on nothing goes wrong, but for clocks that are.
    pub fn calm(&self) {
        self.to_kinto.restore();
        if let Some(way) = &self.to_journal {
            way.restore();
        }
        if let Some(machine) = &self.machine {
            machine.fail_one_of(0);
        }
    }

    /// Ends all connections to Kinto and to the journal.
    pub async fn disconnect(&self) {
        let ways = [Some(&self.to_kinto), self.to_journal.as_ref()].into_iter().flatten();
        ways.clone().for_each(Chaos::cut);
        tokio::time::sleep(Duration::from_millis(100)).await;
        ways.for_each(Chaos::restore);
    }

    /// All clocks are right again.
    pub async fn set_clocks(&self) {
        self.set_sidecars_clock(0);
        self.set_kintos_clock(0).await;
    }

    fn set_sidecars_clock(&self, ahead: i64) {
        if let Some(machine) = &self.machine {
            machine.set_ahead(ahead);
        }
    }

    async fn set_kintos_clock(&self, ahead: i64) {
        if let Some(machine) = &self.kintos_machine {
            machine.set_ahead(ahead);
            clock::set_ahead(&self.storage, ahead).await;
        }
    }

    /// Kinto ends, something happens to its database, and it is started again.
    pub async fn restart_kinto(&mut self, meanwhile: impl AsyncFnOnce(&str)) {
        block_in_place(|| self.kinto = None);
        meanwhile(&self.storage).await;
        let kinto = block_in_place(|| kinto(&self.storage, self.kintos_machine.as_ref()));
        self.to_kinto.lead_to(kinto.url());
        self.past.lead_to(kinto.url());
        self.kinto = Some(kinto);
    }

    async fn happen(&mut self, event: Event) {
        self.events += usize::from(event != Event::Kill);
        match event {
            Event::Kill => {
                self.kills += 1;
                block_in_place(|| self.kill());
            }
            Event::Pause(time) => {
                self.sidecar.signal(Signal::STOP);
                tokio::time::sleep(time).await;
                self.sidecar.signal(Signal::CONT);
            }
            Event::RestartKinto(time) => self.restart_kinto(async |_| tokio::time::sleep(time).await).await,
            Event::SidecarClock(ahead) => self.set_sidecars_clock(ahead),
            Event::KintoClock(ahead) => self.set_kintos_clock(ahead).await,
            Event::DisconnectKinto => disconnect(&self.storage).await,
            Event::DisconnectJournal => {
                if let Some(journal) = &self.journal {
                    disconnect(journal).await;
                }
            }
        }
    }

    /// As who looks after it does: what cannot start is started again, unless it says that that is of no use.
    pub fn kill(&mut self) {
        self.sidecar.kill();
        let until = std::time::Instant::now() + PATIENCE;
        while let Err(ended) = self.sidecar.try_restart() {
            let log = self.sidecar.log();
            assert_eq!(ended.and_then(|status| status.code()), Some(1), "{ended:?}: {log}");
            assert!(std::time::Instant::now() < until, "it does not start again");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Makes a bucket to which everybody may write, and its collection. A machine that has much else to do may take longer than the
/// sidecar waits.
pub async fn make(client: &Client, bucket: &str, collection: &str) {
    let open = json!({"permissions": {"read": ["system.Everyone"], "write": ["system.Authenticated"]}});
    for (path, body) in [(bucket, open), (collection, json!({}))] {
        eventually("what is made", async || {
            let answer = client.put(path).json(body.clone()).attempt().await.ok();
            answer.filter(|answer| answer.status < 300)
        })
        .await;
    }
}

fn set(way: &Chaos, weather: Weather) {
    match weather {
        Weather::Fair => way.restore(),
        Weather::Stormy(storm) => way.storm(storm),
        Weather::Cut => way.cut(),
        Weather::Stalled => way.stall(),
    }
}

/// Ends the connections to a database.
async fn disconnect(database: &str) {
    let mut connection = PgConnection::connect(database).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    connection.execute(end).await.unwrap();
}
