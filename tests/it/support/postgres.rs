//! One PostgreSQL for the whole test process; each Kinto makes a database of its own in it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use super::environment::{Environment, environment, tests_folder};

/// A running server, which ends when the test process does.
struct Server {
    socket_folder: String,
    /// Its standard input is what the server lives by.
    _process: Child,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
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
    let mut socket_folder = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut socket_folder).unwrap();
    assert!(!socket_folder.is_empty(), "PostgreSQL did not start:\n{}", reader.join().unwrap());
    Server { socket_folder: socket_folder.trim().to_owned(), _process: process }
});

/// The folder of the server's Unix socket.
pub fn socket_folder() -> &'static str {
    &SERVER.socket_folder
}

/// The URL of a new database.
pub fn database() -> String {
    let folder = socket_folder();
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
