//! A real Firefox without a window: Debian's, told through Marionette what to do in its own modules.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, debian, skip, undertaker};

const PACKAGE: &str = "firefox-esr";
/// Below the folder that it is installed in.
const PROGRAM: &str = "usr/lib/firefox-esr/firefox-esr";

/// What stands before each script: the modules that are looked at.
const MODULES: &str = "
    const done = arguments[arguments.length - 1];
    const module = name => ChromeUtils.importESModule(`resource://services-settings/${name}.sys.mjs`);
    const { RemoteSettings } = module('remote-settings');
    const { Utils } = module('Utils');";

/// A Firefox that begins with nothing; ended when dropped.
pub struct Firefox {
    process: Child,
    stream: BufReader<TcpStream>,
    calls: u64,
    _profile: TempDir,
}

/// Where the program is, and where its libraries are. Says what is left out where it cannot be had.
fn program() -> Option<(PathBuf, String)> {
    let root = Path::new("/");
    let root = if root.join(PROGRAM).exists() { Ok(root.to_owned()) } else { debian::unpacked(PACKAGE) };
    let root = root.map_err(|trouble| skip(&format!("there is no Firefox, so none was asked: {trouble}")));
    let program = root.as_ref().ok()?.join(PROGRAM);
    let shared = root.ok()?.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let libraries = format!("{}:{}", program.parent()?.display(), shared.display());
    Some((program, libraries))
}

impl Firefox {
    /// A Firefox for which this is the root of Remote Settings' API; `None` where there is none.
    pub fn start(server: &str) -> Option<Self> {
        let (program, libraries) = program()?;
        let profile = tempfile::tempdir().unwrap();
        let preferences = format!(
            "user_pref(\"marionette.port\", 0);\nuser_pref(\"services.settings.server\", \"{server}\");\n"
        );
        fs::write(profile.path().join("user.js"), preferences).unwrap();
        let process = Command::new(program)
            .args(["--headless", "--marionette", "--remote-allow-system-access", "--no-remote", "--profile"])
            .arg(profile.path())
            .env("HOME", profile.path())
            .env("LD_LIBRARY_PATH", libraries)
            // Without it, what is released heeds no other server.
            .env("MOZ_REMOTE_SETTINGS_DEVTOOLS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        undertaker::watch(&process);
        let (told, begun) = (profile.path().join("MarionetteActivePort"), Instant::now());
        let port: u16 = loop {
            let port = fs::read_to_string(&told).ok().and_then(|port| port.parse().ok());
            if let Some(port) = port {
                break port;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "Firefox says no port");
            std::thread::sleep(Duration::from_millis(50));
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        let stream = BufReader::new(stream);
        let mut firefox = Self { process, stream, calls: 0, _profile: profile };
        // It greets first.
        firefox.message();
        firefox.call("WebDriver:NewSession", json!({"capabilities": {}}));
        firefox.call("Marionette:SetContext", json!({"value": "chrome"}));
        Some(firefox)
    }

    /// What the body of an asynchronous function returns that runs beside Firefox's own modules.
    pub fn run(&mut self, body: &str) -> Value {
        let script = format!(
            "{MODULES}\n(async () => {{ {body} }})().then(\n\
             value => done({{ value }}), error => done({{ error: `${{error}} ${{error.stack}}` }}));"
        );
        let asked = json!({"script": script, "args": [], "timeout": PATIENCE.as_millis()});
        let answer = self.call("WebDriver:ExecuteAsyncScript", asked)["value"].clone();
        assert!(answer["error"].is_null(), "{body}: {}", answer["error"]);
        answer["value"].clone()
    }

    fn call(&mut self, command: &str, parameters: Value) -> Value {
        self.calls += 1;
        let message = json!([0, self.calls, command, parameters]).to_string();
        write!(self.stream.get_mut(), "{}:{message}", message.len()).unwrap();
        let answer = self.message();
        assert_eq!((&answer[1], &answer[2]), (&json!(self.calls), &Value::Null), "{command}");
        answer[3].clone()
    }

    /// The next message: its length, a colon and JSON.
    fn message(&mut self) -> Value {
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length).unwrap();
        let length = std::str::from_utf8(&length).unwrap().trim_end_matches(':').parse().unwrap();
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message).unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}
