//! A real browser without a window: Debian's Chromium, told what to do through its debugging pipe.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, debian, skip, undertaker};

const PACKAGE: &str = "chromium-headless-shell";
/// Where it is installed, a package of it that is unpacked lacks what both share.
const INSTALLED: &str = "/usr/lib/chromium/chromium";

/// A browser with one page; ended when dropped.
pub struct Browser {
    process: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// How many pages were loaded.
    loads: u64,
    complaints: VecDeque<String>,
    _profile: TempDir,
}

/// Where the program is, and where its libraries are. Says what is left out where it cannot be had.
fn program() -> Option<(PathBuf, String)> {
    if Path::new(INSTALLED).exists() {
        return Some((INSTALLED.into(), String::new()));
    }
    let folder = debian::unpacked(PACKAGE);
    let folder = folder
        .map_err(|trouble| skip(&format!("there is no Chromium, so no page was opened in it: {trouble}")));
    let folder = folder.ok()?;
    let libraries = folder.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let libraries = format!("{0}:{0}/pulseaudio", libraries.display());
    Some((folder.join("usr/lib/chromium").join(PACKAGE), libraries))
}

impl Browser {
    /// A browser on an empty page; `None` where there is none.
    pub fn start() -> Option<Self> {
        let (program, libraries) = program()?;
        let profile = tempfile::tempdir().unwrap();
        let mut process = undertaker::piped(
            Command::new("sh")
                .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1"])
                .arg(program)
                .args([
                    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                    "--hide-scrollbars",
                ])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .env("LD_LIBRARY_PATH", libraries),
        );
        let (told, output) = mpsc::channel();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while stdout.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                // What it prints beside messages is no JSON.
                if let Ok(value) = serde_json::from_slice(&message) {
                    let _ = told.send(value);
                }
                message.clear();
            }
        });
        let input = process.stdin.take().unwrap();
        let mut browser = Self {
            process,
            input,
            output,
            session: None,
            calls: 0,
            loads: 0,
            complaints: VecDeque::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Asks for something of the debugging protocol.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.next();
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    /// The next message; what it tells of the page is noted.
    fn next(&mut self) -> Value {
        let message = self.output.recv_timeout(PATIENCE).unwrap();
        let is_complaint = match message["method"].as_str() {
            Some("Log.entryAdded") => message["params"]["entry"]["level"] == "error",
            Some("Runtime.exceptionThrown") => true,
            Some("Page.loadEventFired") => {
                self.loads += 1;
                false
            }
            _ => false,
        };
        if is_complaint {
            self.complaints.push_back(message["params"].to_string());
        }
        message
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{opened}");
    }

    /// Loads the page again, and waits until it is the new one that is asked.
    pub fn reload(&mut self) {
        let before = self.loads;
        self.call("Page.reload", json!({}));
        while self.loads == before {
            self.next();
        }
    }

    /// What an expression comes to in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; how long that took.
    pub fn wait(&mut self, expression: &str) -> Duration {
        let begun = Instant::now();
        while self.evaluate(&format!("Boolean({expression})")) != true {
            let page = || self.complaints.iter().cloned().collect::<Vec<_>>().join("\n");
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {expression}\n{}", page());
            std::thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            let event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Makes the window as large as this, and its colours those of a `light` or a `dark` scheme.
    pub fn show_in(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// What the window shows, as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    /// What the browser found to be wrong with the page.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.iter().cloned().collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        undertaker::release(&self.process);
    }
}
