//! A sidecar between clients, a Kinto and a journal, each of which can fail.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::disk::Disk;
use super::kinto;
use super::plan::{Event, Step, Weather};
use crate::support::{Chaos, Client, Kinto, PATIENCE, SERVICE_ACCOUNT, Sidecar, database, unique};

pub struct World {
    kinto: Option<Kinto>,
    /// The database of Kinto, and that of the journal where it is one.
    pub storage: String,
    journal: Option<String>,
    to_kinto: Chaos,
    to_journal: Option<Chaos>,
    disk: Option<Disk>,
    pub sidecar: Sidecar,
    pub bucket: String,
    pub collection: String,
    kills: usize,
    events: usize,
    _folder: TempDir,
}

impl World {
    pub async fn begin(seed: u64) -> Self {
        let storage = database();
        let kinto = block_in_place(|| kinto(&storage));
        let to_kinto = Chaos::before(kinto.url());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let (mut journal, mut to_journal, mut disk) = (None, None, None);
        let url = if seed.is_multiple_of(2) {
            disk = Disk::that_fails(folder.path());
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
        let starter = disk.as_ref().map(Disk::beside).unwrap_or_default();
        let sidecar = block_in_place(|| Sidecar::start_by(starter, to_kinto.url(), &settings));
        let alice = sidecar.client().user("alice");
        let open = json!({"permissions": {"read": ["system.Everyone"], "write": ["system.Authenticated"]}});
        alice.put(&bucket).json(open).await.expect(201);
        let collection = format!("{bucket}/collections/c");
        alice.put(&collection).await.expect(201);
        // Kinto may fail for those who are the first to ask for the timestamp of a collection.
        kinto.client().user("alice").put(&format!("{collection}/records/first")).await.expect(201);
        Self {
            kinto: Some(kinto),
            storage,
            journal,
            to_kinto,
            to_journal,
            disk,
            sidecar,
            bucket,
            collection,
            kills: 0,
            events: 0,
            _folder: folder,
        }
    }

    pub fn kinto(&self) -> &Kinto {
        self.kinto.as_ref().unwrap()
    }

    /// Somebody who may do everything, through the sidecar.
    pub fn alice(&self) -> Client {
        Client::new(self.sidecar.address()).user("alice")
    }

    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    pub fn journal_is_far(&self) -> bool {
        self.journal.is_some()
    }

    /// What was done to it.
    pub fn sums(&self) -> String {
        let failures = self.disk.as_ref().map_or(0, Disk::failures);
        format!("{} kills and {} other events, {failures} failures of the disk", self.kills, self.events)
    }

    /// Lets a step go wrong.
    pub async fn suffer(&mut self, step: Step) {
        set(&self.to_kinto, step.to_kinto);
        if let Some(way) = &self.to_journal {
            set(way, step.to_journal);
        }
        if let Some(disk) = &self.disk {
            disk.fail_one_of(step.disk.unwrap_or(0));
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

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.to_kinto.restore();
        if let Some(way) = &self.to_journal {
            way.restore();
        }
        if let Some(disk) = &self.disk {
            disk.fail_one_of(0);
        }
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
            Event::RestartKinto(time) => {
                block_in_place(|| self.kinto = None);
                tokio::time::sleep(time).await;
                let kinto = block_in_place(|| kinto(&self.storage));
                self.to_kinto.lead_to(kinto.url());
                self.kinto = Some(kinto);
            }
            Event::DisconnectKinto => disconnect(&self.storage).await,
            Event::DisconnectJournal => {
                if let Some(journal) = &self.journal {
                    disconnect(journal).await;
                }
            }
        }
    }

    /// As who looks after it does: what cannot start is started again, unless it says that that is of no use.
    fn kill(&mut self) {
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
