//! The history is the one that Kinto's plugin keeps: the same requests, drawn from a seed, go to a Kinto without the plugin
//! through the sidecar, and to one with it. Afterwards each object has the same entries in the same order: what was done,
//! by whom, under which URI, with which data and permissions.
//!
//! What the sidecar refuses is not sent to the other one. It has to be among [`requests::Odd`]: nothing that a client sends
//! unless it means to see what happens.
//!
//! `SEED=7 cargo test --test it differential` replays one world, `SERVERS=gunicorn,uwsgi` takes other servers than waitress,
//! `MINUTES=60` goes on with new seeds for so long.

mod compare;
mod requests;
mod wire;

use std::time::{Duration, Instant};

use crate::mirror_equals_upstream::random::Random;
use crate::support::{Kinto, KintoOptions, Plugin, SERVICE_ACCOUNT, Server, Sidecar};
use compare::histories;
use requests::{Names, Request};
use wire::exchange;

/// Requests in a world.
const REQUESTS: usize = 100;

#[test]
fn the_history_is_the_one_that_the_plugin_keeps() {
    let servers = std::env::var("SERVERS").unwrap_or_else(|_| "waitress".to_owned());
    let minutes = std::env::var("MINUTES").ok().map(|minutes| minutes.parse().unwrap());
    let seed: Option<u64> = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(60 * minutes.unwrap_or(0));
    let first = seed.unwrap_or_else(Random::seed);
    let benches: Vec<Bench> = servers
        .split(',')
        .flat_map(|server| [true, false].map(|any_id| Bench::new(server, any_id)))
        .collect();
    let (mut sent, mut refused, mut worlds) = (0, 0, 0);
    for seed in first.. {
        for bench in &benches {
            let (of_world, refused_of_it) = bench.world(seed);
            sent += of_world;
            refused += refused_of_it;
            worlds += 1;
        }
        if seed > first || minutes.is_some() || std::env::var("SEED").is_ok() {
            println!(
                "commit {}, seeds {first} to {seed}, {servers}: {worlds} worlds, {sent} requests, {refused} refused",
                commit()
            );
        }
        let is_short = minutes.is_none();
        if is_short || Instant::now() > until {
            break;
        }
    }
    assert!(sent > refused * 2, "{refused} of {sent} refused: too much to show anything");
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// A sidecar before a Kinto, and a Kinto with the plugin.
struct Bench {
    name: String,
    any_id: bool,
    sidecar: Sidecar,
    _kinto: Kinto,
    plugin: Kinto,
}

impl Bench {
    fn new(server: &str, any_id: bool) -> Self {
        let kind = match server {
            "waitress" => Server::Waitress,
            "gunicorn" => Server::Gunicorn,
            "uwsgi" => Server::Uwsgi,
            other => panic!("no such server: {other}"),
        };
        let options = || {
            let options = KintoOptions::memory().server(kind);
            let options = options.setting("kinto.history_read_principals", "system.Everyone");
            if any_id { options.any_id() } else { options }
        };
        let plugin = std::thread::spawn({
            let options = options().plugin(Plugin::History);
            move || Kinto::start(options)
        });
        let kinto = Kinto::start(options());
        let plugin = plugin.join().unwrap();
        // Nobody looks for what was not seen to pass.
        let settings = [
            SERVICE_ACCOUNT,
            ("sidecar.history", "journal"),
            ("sidecar.exclusive", "true"),
            ("history_read_principals", "system.Everyone"),
        ];
        let sidecar = Sidecar::start(kinto.url(), &settings);
        Self { name: format!("{server}, any id: {any_id}"), any_id, sidecar, _kinto: kinto, plugin }
    }

    /// Gives the number of requests, and of those that the sidecar refused.
    fn world(&self, seed: u64) -> (usize, usize) {
        let mut random = Random::new(seed ^ u64::from(self.any_id) << 63);
        let names = Names::new(seed, self.any_id);
        let (sidecar, plugin) = (self.sidecar.address(), self.plugin.address());
        let mut log = String::new();
        let mut refused = 0;
        let replay = |log: &str| format!("SEED={seed} ({})\n{log}", self.name);
        let requests =
            names.first().into_iter().chain((0..REQUESTS).map(|_| Request::draw(&mut random, &names)));
        for (number, request) in requests.enumerate() {
            let through = exchange(sidecar, &request.bytes(sidecar));
            log.push_str(&format!("{number}: {request}\n    {}\n", through.summary()));
            if through.is_refused_here() {
                assert!(!request.odd.is_empty(), "an ordinary request was refused: {}", replay(&log));
                refused += 1;
                continue;
            }
            let kintos = exchange(&plugin, &request.bytes(&plugin));
            log.push_str(&format!("    {}\n", kintos.summary()));
            assert_eq!(through.statuses(), kintos.statuses(), "{}", replay(&log));
        }
        for (bucket, is_default) in names.buckets(sidecar) {
            let [kept, expected] = [(sidecar, false), (&*plugin, true)]
                .map(|(address, is_plugins)| histories(address, &bucket, is_default, is_plugins));
            for uri in kept.keys().chain(expected.keys()) {
                assert_eq!(kept.get(uri), expected.get(uri), "{uri}: {}", replay(&log));
            }
        }
        (REQUESTS, refused)
    }
}
