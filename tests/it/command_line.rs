//! What the program says and does when it is called wrongly, or finds things otherwise than it hoped.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tidings(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.current_dir(folder).args(arguments).env_remove("TIDINGS_SERVER__LISTEN").output().unwrap()
}

fn complaint(folder: &Path, arguments: &[&str]) -> String {
    let output = tidings(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_first_start_that_cannot_listen_does_not_use_up_the_bootstrap_key() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = complaint(folder.path(), &["serve", "--listen", &address]);
    assert!(said.starts_with(&format!("tidings: server.listen: cannot listen on {address}: ")), "{said}");

    let mut server = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .current_dir(folder.path())
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = server.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.starts_with("bootstrap key (shown once): tdk_"), "{line}");
}

#[test]
fn a_store_of_another_kind_is_refused_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let said = complaint(folder.path(), &["serve", "--database-url", "mysql://me:hunter2@db/log"]);
    assert!(said.contains("database.url") && said.contains("'mysql'"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn rebuilding_from_a_log_that_is_not_there_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let said = complaint(folder.path(), &["rebuild", "--database-url", "sqlite://typo.db"]);
    assert!(said.starts_with("tidings: cannot read the log 'typo.db': "), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
