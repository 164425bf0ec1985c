//! The house itself: which room may lean on which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Rooms depend one way only: portal -> insights -> billing -> metering -> core; access -> billing; ingest -> core.
pub fn rooms_depend_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("farebox-core", &["farebox-features"] as &[&str]),
        ("farebox-engines", &["farebox-core"]),
        ("farebox-ingest", &["farebox-core"]),
        ("farebox-metering", &["farebox-core"]),
        ("farebox-billing", &["farebox-core", "farebox-metering"]),
        ("farebox-insights", &["farebox-core", "farebox-metering", "farebox-billing"]),
        ("farebox-access", &["farebox-core", "farebox-metering", "farebox-billing"]),
        (
            "farebox-portal",
            &["farebox-core", "farebox-ingest", "farebox-metering", "farebox-billing", "farebox-insights", "farebox-access"],
        ),
    ]);
    let output =
        Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).output().expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let Some(may) = allowed.get(name) else { continue };
        seen.insert(name);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let dependency = dependency["name"].as_str().expect("a name");
            let room = dependency.starts_with("farebox-");
            assert!(!room || may.contains(&dependency), "{name} must not depend on {dependency}: rooms depend one way only");
        }
    }
    assert_eq!(seen.len(), allowed.len(), "every room is in the workspace: {seen:?}");
}
