//! `farebox demo` as somebody who has just cloned the project types it: with nothing else said, not even where.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

async fn demo(directory: &Path) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_farebox"))
        .args(["demo", "--exit", "--port", "0", "--consumers", "12"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the demo runs");
    let (said, complained) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}\n{complained}");
    assert!(!complained.contains("ERROR") && !complained.contains("died"), "{complained}");
    said.into_owned()
}

/// The figure in the line of the statement that begins with `label`.
fn figure(said: &str, label: &str) -> u64 {
    let line = said.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_else(|| panic!("no `{label}` in:\n{said}"));
    let number = line.trim_start()[label.len()..].split_whitespace().next().expect("a figure");
    number.replace(',', "").parse().expect("a number")
}

pub async fn what_was_sent_is_counted_and_a_second_start_goes_on() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let first = demo(&directory).await;
    let second = demo(&directory).await;
    for said in [&first, &second] {
        assert_eq!(figure(said, "Requests sent"), figure(said, "Requests counted"), "{said}");
        assert_eq!(figure(said, "Difference"), 0, "{said}");
    }
    let live = figure(&second, "Requests sent") - figure(&first, "Requests sent");
    assert!((150..1000).contains(&live), "{live} live calls of the second start:\n{second}");
    assert!(first.contains("+ 0 live before +"), "{first}");
    assert!(!second.contains("+ 0 live before +"), "{second}");
    std::fs::remove_dir_all(&directory).expect("removed");
}
