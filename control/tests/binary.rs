//! The `lockgate` binary as a shell sees it, without a running lockgate.
//!
//! Not here: verbs that need one (package `tests`).
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn lockgate(folder: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command.current_dir(folder).env_remove("LOCKGATE_DATA").args(words);
    command.output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

#[test]
fn usage_errors_end_with_one_and_say_nothing_on_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["dance"][..], &[], &["hold", "outbound"], &["status", "-o", "yaml"]] {
        let output = lockgate(folder.path(), words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}: {}", text(&output.stdout));
        assert!(!output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn help_and_version_end_with_nothing_to_complain_about() {
    let folder = tempfile::tempdir().unwrap();
    let help = lockgate(folder.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("3  inconclusive"));
    let version = lockgate(folder.path(), &["version", "-o", "json"]);
    assert_eq!(version.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn without_a_lockgate_a_verb_names_the_socket_and_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["status"][..], &["-o", "json", "held", "list"], &["wait", "quiet", "outbound"]]
    {
        let output = lockgate(folder.path(), words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
        let error = text(&output.stderr);
        assert!(error.contains("no lockgate answers at lockgate-data/lockgate.sock"), "{error}");
        assert!(error.contains("is `lockgate serve` running?"), "{error}");
    }
}

#[test]
fn the_data_folder_is_named_by_option_then_environment_before_or_after_the_verb() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["--data", "here", "status"][..], &["status", "--data", "here"]] {
        for environment in [None, Some("there")] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
            command.current_dir(folder.path()).env_remove("LOCKGATE_DATA").args(words);
            command.envs(environment.map(|folder| ("LOCKGATE_DATA", folder)));
            let error = text(&command.output().unwrap().stderr);
            assert!(error.contains("at here/lockgate.sock"), "{words:?} {environment:?}: {error}");
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command.current_dir(folder.path()).env("LOCKGATE_DATA", "there").arg("status");
    let error = text(&command.output().unwrap().stderr);
    assert!(error.contains("at there/lockgate.sock"), "{error}");
}

#[test]
fn a_spool_that_is_not_there_is_an_error_not_an_empty_list() {
    let folder = tempfile::tempdir().unwrap();
    let output = lockgate(folder.path(), &["held", "list", "--offline", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no spool in nowhere"), "{}", text(&output.stderr));
    let output = lockgate(folder.path(), &["held", "--offline", "nowhere", "retry", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("only reads"), "{}", text(&output.stderr));
}
