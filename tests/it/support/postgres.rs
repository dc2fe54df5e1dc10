//! One PostgreSQL for the whole test process; each Kinto makes a database of its own in it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use super::environment::{Environment, environment, tests_folder};

/// A running server, which ends when it is dropped, or the test process ends.
pub struct Postgres {
    folder: String,
    /// What the server lives by.
    input: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    process: Child,
}

static SERVER: LazyLock<Postgres> = LazyLock::new(Postgres::start);

impl Postgres {
    /// Starts one.
    pub fn start() -> Self {
        let mut process = Command::new(environment(Environment::Plain).python())
            .arg(tests_folder().join("it/support/serve_postgres.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut lines = String::new();
            while log.read_line(&mut lines).is_ok_and(|read| read > 0) {}
            lines
        });
        let said = BufReader::new(process.stdout.take().unwrap());
        let input = process.stdin.take();
        let mut server = Self { folder: String::new(), input, said, process };
        server.folder = server.next_folder();
        assert!(!server.folder.is_empty(), "PostgreSQL did not start:\n{}", reader.join().unwrap());
        server
    }

    fn next_folder(&mut self) -> String {
        let mut folder = String::new();
        self.said.read_line(&mut folder).unwrap();
        folder.trim().to_owned()
    }

    /// Starts it again, and beside it a standby with what it has now; gives their Unix sockets.
    pub fn with_standby(&mut self) -> [String; 2] {
        self.input.as_mut().unwrap().write_all(b"standby\n").unwrap();
        [(), ()].map(|()| format!("{}/.s.PGSQL.5432", self.next_folder()))
    }

    /// Has the server at a Unix socket do something.
    pub fn execute(socket: &str, statement: &str) {
        let folder = socket.trim_end_matches("/.s.PGSQL.5432");
        let script = "import psycopg2, sys
connection = psycopg2.connect(host=sys.argv[1], user='kinto', dbname='postgres')
connection.autocommit = True
connection.cursor().execute(sys.argv[2])";
        let python = environment(Environment::Plain).python();
        let done = Command::new(python).args(["-c", script, folder, statement]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// The URL of a new database.
    pub fn database(&self) -> String {
        let folder = &self.folder;
        let script = "import psycopg2, sys, uuid
name = 'journal_' + uuid.uuid4().hex
connection = psycopg2.connect(host=sys.argv[1], user='kinto', dbname='postgres')
connection.autocommit = True
connection.cursor().execute(f\"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0\")
print(name)";
        let python = environment(Environment::Plain).python();
        let made = Command::new(python).args(["-c", script, folder]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://kinto@localhost/{}?host={folder}", String::from_utf8_lossy(&made.stdout).trim())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.input = None;
        _ = self.process.wait();
    }
}

/// The folder of the server's Unix socket.
pub fn socket_folder() -> &'static str {
    &SERVER.folder
}

/// The URL of a new database.
pub fn database() -> String {
    SERVER.database()
}
