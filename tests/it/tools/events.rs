//! `tidings events`.

use std::io::Read;
use std::process::{Command, Stdio};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{Lived, MESSAGES};
use crate::support::server::{Kind, on_both};

/// Never reached by a test that passes.
const PATIENCE: Duration = Duration::from_secs(60);

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_as_json_lines_beside_the_server() {
    let lived = Lived::start().await;
    let all = lines(&lived.says(&["events"]));
    let positions: Vec<String> = (1..=all.len()).map(|seq| format!("0-{seq}")).collect();
    assert_eq!(all.iter().map(|event| event["position"].as_str().unwrap()).collect::<Vec<_>>(), positions);
    assert!(all.iter().all(|event| event["data"].is_object() && event.get("content").is_none()));

    let published = lines(&lived.says(&["events", "--type", "message.published", "--with-content"]));
    let ids: Vec<&str> = published.iter().map(|event| event["data"]["message"].as_str().unwrap()).collect();
    assert_eq!(ids, lived.messages);
    assert_eq!(published[7]["content"], r#"{"n":7}"#);

    let webhook = lived.webhook_at("/refuses").await;
    let stream = format!("deliveries-{}", webhook.trim_start_matches("wh_"));
    let of_stream = lines(&lived.says(&["events", "--stream", &stream]));
    assert_eq!(of_stream.iter().filter(|event| event["type"] == "delivery.scheduled").count(), MESSAGES);
    assert!(of_stream.iter().all(|event| event["stream"] == stream));
    let versions: Vec<u64> = of_stream.iter().map(|event| event["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, (1..=of_stream.len() as u64).collect::<Vec<_>>());

    // Reading goes on where it ended, and by time.
    let behind = lines(&lived.says(&["events", "--after", "0-3", "--limit", "2"]));
    assert_eq!(behind, all[3..5]);
    let at = all[4]["at"].as_str().unwrap();
    let since = lines(&lived.says(&["events", "--since", at]));
    let until = lines(&lived.says(&["events", "--until", at]));
    assert_eq!(since.len() + until.len(), all.len());

    let tenant = published[0]["data"]["tenant"].as_str().unwrap();
    // How the server was configured is no tenant's.
    let own: Vec<_> = all.iter().filter(|event| event["type"] != "system.config_changed").cloned().collect();
    assert_eq!(lines(&lived.says(&["events", "--tenant", tenant])), own);
    let other = "ten_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    assert!(lived.says(&["events", "--tenant", other]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_a_reader_that_has_enough_is_no_failure() {
    let lived = Lived::start().await;
    for (arguments, said) in [
        (vec!["events", "--after", "1-1"], "there is no shard 1"),
        (vec!["events", "--after", "here"], "'here' is not a position"),
        (vec!["events", "--since", "yesterday"], "'yesterday' is not an RFC 3339 time of the years 1970 to 9999"),
        (vec!["events", "--tenant", "me"], "'me' is not an id of the form ten_"),
        (vec!["events", "--database-url", "sqlite://nowhere.db"], "cannot read the log 'nowhere.db'"),
    ] {
        let output = lived.tidings(&arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(said), "{arguments:?}: {complaint}");
    }
    let mut reading = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["events", "--config"])
        .arg(lived.server.config())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = reading.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    drop(out);
    assert!(reading.wait().unwrap().success());
}

on_both!(events_are_shown_as_they_come);

/// The command, with its lines to be read one by one.
fn following(lived: &Lived, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["events", "--follow", "--config"]).arg(lived.server.config()).args(arguments);
    let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    (process, lines)
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("nothing came").unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn events_are_shown_as_they_come(kind: Kind) {
    let mut lived = Lived::start_on(kind).await;
    let (mut process, mut shown) = following(&lived, &["--type", "message.published", "--with-content"]);
    for message in lived.messages.clone() {
        assert_eq!(next(&mut shown).await["data"]["message"], message);
    }
    for n in 100..110 {
        let message = lived.publish(n).await;
        let event = next(&mut shown).await;
        assert_eq!((&event["data"]["message"], &event["content"]), (&json!(message), &json!(format!("{{\"n\":{n}}}"))));
        lived.messages.push(message);
    }
    let interrupt = ["-INT", &process.id().unwrap().to_string()];
    assert!(Command::new("kill").args(interrupt).status().unwrap().success());
    let ended = tokio::time::timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    assert!(shown.next_line().await.unwrap().is_none());

    // Of one stream, to a reader that goes away.
    let webhook = lived.webhook_at("/takes").await;
    let stream = format!("deliveries-{}", webhook.trim_start_matches("wh_"));
    let (mut process, mut shown) = following(&lived, &["--stream", &stream]);
    assert_eq!(next(&mut shown).await["stream"], json!(stream));
    drop(shown);
    let ended = async {
        loop {
            lived.publish(next_number()).await;
            if let Some(ended) = process.try_wait().unwrap() {
                return ended;
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(ended.success(), "{ended}");
}

/// Another one each time.
fn next_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
