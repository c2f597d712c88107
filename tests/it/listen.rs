//! `tidings listen` as a sender meets it: over TLS, with the certificate that it made.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::cli::listen::{ListenOptions, Receiver};
use tidings::clock::{Clock, SystemClock};
use tidings::domain::id::MessageId;
use tidings::domain::outcome::FailureCode;
use tidings::domain::profile;
use tidings::domain::secret::Secret;
use tidings::domain::time::Timestamp;
use tidings::outbound::{Config, HttpClient, Request, Transport};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::delivery::Draft;

/// Longest wait before a test fails. Not a measure of anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// For answers that never come.
const IMPATIENT_MS: u64 = 300;

/// A receiver in this process, with its files in a directory of its own.
struct Listening {
    directory: TempDir,
    url: String,
    client: HttpClient,
    printed: Printed,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Listening {
    async fn start(change: impl FnOnce(&mut ListenOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name| Some(PathBuf::from(directory.path()).join(name));
        let mut options = ListenOptions {
            profiles: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            tls_dir: directory.path().join("tls"),
            secrets: file("secrets.json"),
            fail: vec![],
            delay: vec![],
            log: file("log.jsonl"),
            no_timestamp_check: false,
        };
        change(&mut options);
        let printed = Printed::default();
        let receiver = Receiver::bind(&options, Arc::new(SystemClock), printed.clone()).await.unwrap();
        let config = Config {
            allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
            extra_ca: vec![receiver.ca_file().to_owned()],
            ..Config::default()
        };
        let client = HttpClient::new(&config).unwrap();
        let url = receiver.url();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(receiver.run(async { drop(stopped.await) }));
        Self { directory, url, client, printed, stop, running }
    }

    /// Gives `/hook` this profile and secret from now on.
    fn know(&self, profile: &str, secret: &Secret) {
        let secrets = json!({ "/hook": { "profile": profile, "secret": secret.expose() } });
        std::fs::write(self.directory.path().join("secrets.json"), secrets.to_string()).unwrap();
    }

    /// A delivery of `user.created` to `/hook`.
    fn delivery(&self, profile: &str, secret: &Secret, attempted_at: Timestamp) -> Request {
        let draft = Draft {
            profile: profile::find(profile).unwrap(),
            message: MessageId::from_parts(1, 1),
            event_type: "user.created",
            tenant: "ent_abc123",
            data: r#"{"name":"Ünal \"<&>\" Ω"}"#,
            secrets: std::slice::from_ref(secret),
            attempted_at,
        };
        draft.request(format!("{}/hook", self.url))
    }

    /// The status of the answer.
    async fn post(&self, request: Request) -> u16 {
        self.client.post(request).await.result.expect("an answer").status
    }

    fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("log.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn printed(&self) -> String {
        String::from_utf8(self.printed.0.lock().unwrap().clone()).unwrap()
    }

    /// Stops the receiver, which must not take its whole grace for requests that it never answers.
    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.running).await.expect("the receiver ends").unwrap();
    }
}

fn secret(seed: u8) -> Secret {
    Secret::generate(&[seed; 32])
}

#[tokio::test]
async fn what_is_answered_200_was_verified_and_is_in_the_log_to_the_byte() {
    let listening = Listening::start(|_| ()).await;
    for profile in profile::built_in() {
        listening.know(&profile.name, &secret(1));
        let request = listening.delivery(&profile.name, &secret(1), SystemClock.now());
        let body = String::from_utf8(request.body.to_vec()).unwrap();

        assert_eq!(listening.post(request).await, 200, "{}", profile.name);

        let log = listening.log();
        let line = log.last().unwrap();
        assert_eq!(line["path"], "/hook");
        assert_eq!(line["message_id"], MessageId::from_parts(1, 1).to_string());
        assert_eq!(line["event_type"], "user.created");
        assert_eq!(line["body"], body);
        assert_eq!((&line["verified"], &line["answer"]), (&json!(true), &json!(200)));
        assert_eq!(line["headers"]["content-type"], "application/json");
        assert_eq!(line.get("refusal"), None);
    }
    assert_eq!(listening.log().len(), profile::built_in().len());
    let printed = listening.printed();
    assert!(printed.starts_with(&format!("listening on {}\n", listening.url)), "{printed}");
    assert!(printed.contains("/ca.pem\"]"), "{printed}");
    assert_eq!(printed.matches(" user.created ").count(), profile::built_in().len(), "{printed}");
    assert_eq!(printed.matches("VERIFIED answered 200").count(), profile::built_in().len(), "{printed}");
    listening.stop().await;
}

#[tokio::test]
async fn what_another_made_or_changed_or_kept_is_answered_401_and_logged() {
    // S18
    let listening = Listening::start(|_| ()).await;
    for profile in profile::built_in() {
        let now = SystemClock.now();
        listening.know(&profile.name, &secret(1));
        let foreign = listening.delivery(&profile.name, &secret(2), now);
        let mut changed = listening.delivery(&profile.name, &secret(1), now);
        changed.body = [&changed.body[..], b" "].concat().into();
        let mut twice = listening.delivery(&profile.name, &secret(1), now);
        twice.headers.extend(twice.headers.last().cloned());
        let an_hour_ago = Timestamp::from_ms(now.as_ms() - 3_600_000);
        let kept = listening.delivery(&profile.name, &secret(1), an_hour_ago);
        for request in [foreign, changed, twice, kept] {
            assert_eq!(listening.post(request).await, 401, "{}", profile.name);
        }
    }
    let log = listening.log();
    assert_eq!(log.len(), 4 * profile::built_in().len());
    assert!(log.iter().all(|line| line["verified"] == false && line["answer"] == 401 && line["refusal"].is_string()));
    assert_eq!(listening.printed().matches(" REFUSED ").count(), log.len());
    listening.stop().await;
}

#[tokio::test]
async fn a_kept_delivery_is_verified_if_time_is_not_compared() {
    let listening = Listening::start(|options| options.no_timestamp_check = true).await;
    listening.know("standard-v1", &secret(1));
    assert_eq!(listening.post(listening.delivery("standard-v1", &secret(1), Timestamp::from_ms(1_000))).await, 200);
}

#[tokio::test]
async fn a_webhook_can_be_created_and_its_secret_rotated_while_the_receiver_runs() {
    let listening = Listening::start(|_| ()).await;
    let request = |seed| listening.delivery("axie-v1", &secret(seed), SystemClock.now());
    assert_eq!(listening.post(request(1)).await, 404);
    listening.know("axie-v1", &secret(1));
    assert_eq!(listening.post(request(1)).await, 200);
    listening.know("axie-v1", &secret(2));
    assert_eq!(listening.post(request(1)).await, 401);
    assert_eq!(listening.post(request(2)).await, 200);
    std::fs::write(listening.directory.path().join("secrets.json"), "{ half").unwrap();
    assert_eq!(listening.post(request(2)).await, 500);
    assert!(
        listening.printed().contains("UNKNOWN PATH no secret is known for it answered 404"),
        "{}",
        listening.printed()
    );
}

#[tokio::test]
async fn it_fails_as_often_as_it_was_told_and_logs_the_verdict_all_the_same() {
    let listening = Listening::start(|options| {
        options.fail = ["/hook=503:2", "/hook=hang:1", "/other=500:9"].map(|text| text.parse().unwrap()).to_vec();
        options.delay = vec!["/hook=1".parse().unwrap()];
    })
    .await;
    listening.know("axissynapse-v1", &secret(1));
    let request = || listening.delivery("axissynapse-v1", &secret(1), SystemClock.now());
    assert_eq!(listening.post(request()).await, 503);
    assert_eq!(listening.post(request()).await, 503);
    let unanswered = listening.client.post(Request { timeout_ms: IMPATIENT_MS, ..request() }).await;
    assert_eq!(unanswered.result.expect_err("no answer").code, FailureCode::Timeout);
    assert_eq!(listening.post(request()).await, 200);

    let log = listening.log();
    let answers: Vec<_> = log.iter().map(|line| line["answer"].clone()).collect();
    assert_eq!(answers, [json!(503), json!(503), json!("hang"), json!(200)]);
    assert!(log.iter().all(|line| line["verified"] == true));
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_not_judged() {
    let listening = Listening::start(|_| ()).await;
    listening.know("standard-v1", &secret(1));
    let mut request = listening.delivery("standard-v1", &secret(1), SystemClock.now());
    request.body = vec![b' '; 1024 * 1024 + 1].into();
    // The receiver may close the connection before all of it is sent.
    let _ = listening.client.post(request).await;
    let [line] = &listening.log()[..] else { panic!("one line") };
    assert_eq!((&line["answer"], &line["verified"], &line["body"]), (&json!(413), &json!(false), &json!("")));
}

#[tokio::test]
async fn it_ends_with_requests_in_flight_that_it_will_never_answer() {
    let listening = Listening::start(|options| options.fail = vec!["/hook=hang:1".parse().unwrap()]).await;
    let request = listening.delivery("standard-v1", &secret(1), SystemClock.now());
    let client = listening.client.clone();
    let posting = tokio::spawn(async move { client.post(request).await });
    let logged = async {
        while listening.log().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, logged).await.expect("the request arrives");
    listening.stop().await;
    assert_eq!(posting.await.unwrap().result.expect_err("no answer").code, FailureCode::Connect);
}

#[tokio::test]
async fn the_next_receiver_with_the_same_directory_has_the_same_certificate() {
    let first = Listening::start(|_| ()).await;
    first.know("standard-v1", &secret(1));
    let second = Listening::start(|options| options.tls_dir = first.directory.path().join("tls")).await;
    let request =
        Request { url: format!("{}/hook", second.url), ..first.delivery("standard-v1", &secret(1), SystemClock.now()) };
    let trusting_the_first = first.client.post(request).await;
    assert_eq!(trusting_the_first.result.expect("an answer").status, 404);
}
