//! A real Kinto in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::json;

use super::client::Client;
use super::environment::{Environment, environment, tests_folder};
use super::postgres;

/// A plugin of Kinto's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// kinto-changes, whose settings are `changes.…`.
    Changes,
    /// Kinto's own history plugin.
    History,
    /// `POST /v1/__flush__`.
    Flush,
    /// `POST /v1/__purge__`: all tombstones of records are dropped, as by `kinto purge-deleted record 0`.
    Purge,
}

/// What serves a Kinto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// As in all tests that are not about servers.
    Waitress,
    /// One process, in threads.
    Gunicorn,
    /// `http-socket`, one process, in threads.
    Uwsgi,
}

/// How a Kinto is to be. Anybody who is authenticated may create buckets; the service account may read everything.
#[derive(Clone, Debug)]
pub struct KintoOptions {
    postgres: bool,
    plugins: Vec<Plugin>,
    settings: serde_json::Map<String, serde_json::Value>,
    processes: usize,
    threads: usize,
    server: Server,
    max_body: Option<usize>,
    variables: Vec<(String, String)>,
}

impl KintoOptions {
    /// A Kinto that keeps everything in memory.
    pub fn memory() -> Self {
        Self {
            postgres: false,
            plugins: Vec::new(),
            settings: serde_json::Map::new(),
            processes: 1,
            threads: 8,
            server: Server::Waitress,
            max_body: None,
            variables: Vec::new(),
        }
    }

    /// With a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A Kinto with a PostgreSQL database of its own, in two processes.
    pub fn postgres() -> Self {
        Self { postgres: true, processes: 2, ..Self::memory() }
    }

    /// Behind another server than waitress.
    pub fn server(self, server: Server) -> Self {
        Self { server, ..self }
    }

    /// Behind a server that takes no larger body.
    pub fn max_body(self, bytes: usize) -> Self {
        Self { max_body: Some(bytes), ..self }
    }

    /// With id generators that take any segment of a path.
    pub fn any_id(self) -> Self {
        ["", "bucket_", "collection_", "group_", "record_"].into_iter().fold(self, |options, kind| {
            options.setting(&format!("kinto.{kind}id_generator"), "serve_kinto.AnyId")
        })
    }

    /// Whose users are accounts, which anybody may make.
    pub fn accounts(self) -> Self {
        let policy = "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy";
        self.setting("kinto.includes", "kinto.plugins.accounts")
            .setting("multiauth.policies", "account")
            .setting("multiauth.policy.account.use", policy)
            .setting("kinto.account_create_principals", "system.Everyone")
    }

    /// With a plugin.
    pub fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// With a setting of Kinto's INI file, such as `("kinto.paginate_by", "5")`.
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// The settings that are handed over, with those which the plugins need.
    fn all_settings(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut settings = self.settings.clone();
        let mut includes = "kinto.plugins.default_bucket".to_owned();
        for plugin in &self.plugins {
            includes.push_str(match plugin {
                Plugin::Changes => " kinto_changes",
                Plugin::History => " kinto.plugins.history",
                Plugin::Flush => " kinto.plugins.flush",
                Plugin::Purge => " serve_kinto",
            });
        }
        settings.entry("kinto.includes").or_insert(includes.into());
        if self.plugins.contains(&Plugin::Flush) {
            settings.insert("kinto.flush_endpoint_enabled".to_owned(), "true".into());
        }
        settings
    }
}

/// A running Kinto; stopped when dropped.
#[derive(Debug)]
pub struct Kinto {
    process: Child,
    port: u16,
    log: Arc<Mutex<String>>,
}

impl Kinto {
    /// A Kinto without plugins, in memory, that tests share: each uses buckets of its own ([`super::unique`]).
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Kinto> = LazyLock::new(|| Kinto::start(KintoOptions::memory()));
        &SHARED
    }

    /// Starts a Kinto and waits until it answers.
    pub fn start(options: KintoOptions) -> Self {
        let kind = match options.server {
            Server::Waitress if options.plugins.contains(&Plugin::Changes) => Environment::Plugin,
            Server::Waitress => Environment::Plain,
            Server::Gunicorn | Server::Uwsgi => Environment::Servers,
        };
        let order = json!({
            "settings": options.all_settings(),
            "database": options.postgres.then(postgres::socket_folder),
            "processes": options.processes,
            "threads": options.threads,
            "server": format!("{:?}", options.server).to_lowercase(),
            "max_body": options.max_body,
        });
        let mut process = Command::new(environment(kind).python())
            .arg(tests_folder().join("it/support/serve_kinto.py"))
            .arg(order.to_string())
            .envs(options.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                line.clear();
            }
        });
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut port = String::new();
        stdout.read_line(&mut port).unwrap();
        if port.is_empty() {
            reader.join().unwrap();
            panic!("Kinto did not start:\n{}", log.lock().unwrap());
        }
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let kinto = Self { process, port: port.trim().parse().unwrap(), log };
        kinto.wait_until_it_answers();
        kinto
    }

    /// The socket is open before the application is loaded: the first answer is worth waiting for.
    fn wait_until_it_answers(&self) {
        use std::io::Write;
        let mut socket = std::net::TcpStream::connect(self.address()).unwrap();
        // To load it takes the processor for seconds, which others want, too.
        socket.set_read_timeout(Some(4 * super::PATIENCE)).unwrap();
        socket.write_all(b"GET /v1/__lbheartbeat__ HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        assert!(answer.contains(" 200 "), "Kinto does not answer: {answer}\n{}", self.log.lock().unwrap());
    }

    /// The root of the API, as `--upstream` takes it.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address())
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it has logged so far; with the setting `test.json_log` a line for each request.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client that speaks to this Kinto directly, behind the sidecar's back.
    pub fn client(&self) -> Client {
        Client::new(&self.address())
    }
}

impl Drop for Kinto {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            let end: Vec<&str> = log.lines().rev().take(40).collect();
            println!("--- end of the log of Kinto at {} ---", self.address());
            end.into_iter().rev().for_each(|line| println!("{line}"));
        }
    }
}
