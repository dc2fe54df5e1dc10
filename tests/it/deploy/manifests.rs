//! The files for Kubernetes and Compose: there is no cluster and no Docker here to run them, so they are compared with
//! Kubernetes' schemas, with each other, and with what the binary says of the settings in them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::deploy_folder;
use crate::support::{Environment, environment, tests_folder};

/// What YAML files of `deploy/` say, one list of documents for each.
pub(super) fn documents(files: &[&str]) -> Vec<Vec<Value>> {
    let output = Command::new(environment(Environment::Deploy).python())
        .arg(tests_folder().join("it/deploy/manifests.py"))
        .arg("1.30")
        .args(files.iter().map(|file| deploy_folder().join(file)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The names of the secrets that a container gets, by its environment and by its volumes.
fn secrets_of<'a>(container: &'a Value, pod: &'a Value) -> BTreeSet<&'a str> {
    let by_environment = container["env"].as_array().into_iter().flatten();
    let by_environment =
        by_environment.filter_map(|entry| entry["valueFrom"]["secretKeyRef"]["name"].as_str());
    let mounted: Vec<_> =
        container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["name"]).collect();
    let volumes = pod["volumes"].as_array().unwrap().iter();
    let by_volumes = volumes
        .filter(|volume| mounted.contains(&&volume["name"]))
        .filter_map(|volume| volume["secret"]["secretName"].as_str());
    by_environment.chain(by_volumes).collect()
}

#[test]
fn kubernetes_takes_the_manifests_and_each_container_has_its_own_secrets_alone() {
    let files = ["deployment.yaml", "service.yaml", "disruption.yaml", "kustomization.yaml"]
        .map(|file| format!("kubernetes/{file}"));
    let documents = documents(&files.each_ref().map(String::as_str));
    let [deployment, _, _, kustomization] = documents.as_slice() else { panic!() };
    let (deployment, kustomization) = (&deployment[0], &kustomization[0]);
    assert_eq!(strings(&kustomization["resources"]).count(), 3);
    for file in strings(&kustomization["resources"]) {
        assert!(files.contains(&format!("kubernetes/{file}")), "{file}");
    }

    let pod = &deployment["spec"]["template"]["spec"];
    let (kinto, sidecar) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(secrets_of(kinto, pod), BTreeSet::from(["kinto"]));
    assert_eq!(secrets_of(sidecar, pod), BTreeSet::from(["kinto-sidecar"]));

    // The image is that of this version.
    let image = &kustomization["images"][0];
    assert_eq!(image["name"], sidecar["image"]);
    assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
    let command =
        format!("docker build -f deploy/Dockerfile -t kinto-sidecar:{} .", env!("CARGO_PKG_VERSION"));
    assert!(fs::read_to_string(deploy_folder().join(&files[3])).unwrap().contains(&command));
}

#[test]
fn the_pods_probes_ask_the_listener_that_the_settings_open_and_stopping_is_given_time() {
    let documents = documents(&["kubernetes/deployment.yaml"]);
    let pod = &documents[0][0]["spec"]["template"]["spec"];
    let sidecar = &pod["containers"][0];
    let settings = fs::read_to_string(deploy_folder().join("kubernetes/kinto-sidecar.ini")).unwrap();
    for port in sidecar["ports"].as_array().unwrap() {
        let key = if port["name"] == "http" { "listen" } else { "admin_listen" };
        let line = format!("sidecar.{key} = 0.0.0.0:{}", port["containerPort"]);
        assert!(settings.lines().any(|given| given == line), "{line}");
    }
    for (probe, path) in [("readinessProbe", "/health/ready"), ("livenessProbe", "/health/live")] {
        assert_eq!(sidecar[probe]["httpGet"]["path"], path);
        assert_eq!(sidecar[probe]["httpGet"]["port"], "admin");
    }
    let drain = settings.lines().find_map(|line| line.strip_prefix("sidecar.drain_delay = ")).unwrap();
    let drain: u64 = drain.trim_end_matches('s').parse().unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    // sidecar.shutdown_grace is 30 s.
    assert!(drain > 0 && grace > drain + 30);
}

#[test]
fn settings_files_are_as_the_binary_wants_them() {
    for file in ["kinto-sidecar.ini", "kubernetes/kinto-sidecar.ini"] {
        // It reads its settings before it finds that nobody is there to be asked.
        let output = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
            .arg("--settings")
            .arg(deploy_folder().join(file))
            .args(["health", "unix:/nowhere"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_image_can_be_pulled_or_is_built_by_the_command_beside_it() {
    let documents = documents(&["compose.yaml", "kubernetes/deployment.yaml"]);
    let services = documents[0][0]["services"].as_object().unwrap();
    let pod = &documents[1][0]["spec"]["template"]["spec"];
    let images = services.values().filter(|service| service.get("build").is_none());
    let images = images.chain(pod["initContainers"].as_array().unwrap()).map(|place| &place["image"]);
    let images: BTreeSet<_> = images.map(|image| image.as_str().unwrap()).collect();
    // Names on Docker Hub: the official images, and Kinto's own, which has the version that tests run.
    let pins = fs::read_to_string(tests_folder().join("environments/plain.txt")).unwrap();
    let version = pins.lines().find_map(|line| line.strip_prefix("kinto==")).unwrap();
    let kinto = format!("kinto/kinto-server:{version}");
    assert_eq!(images, BTreeSet::from([kinto.as_str(), "postgres:17", "varnish:7.6"]));
    assert_eq!(services["sidecar"]["build"]["dockerfile"], "deploy/Dockerfile");
}
