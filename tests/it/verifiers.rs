//! What we sign, as it came over the wire, before the libraries that receivers use and the two documents' own samples:
//! under the program's profiles and those in `examples/profiles`.
//!
//! The samples, npm and PyPI are run by `tests/verifiers/`; `scripts/install-verifiers` brings what they need.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidings::app;
use tidings::clock::{Clock, SystemClock};
use tidings::domain::catalogue;
use tidings::domain::id::MessageId;
use tidings::domain::json::canonicalise;
use tidings::domain::profile::{self, Algorithm, Place, Profile};
use tidings::domain::secret::Secret;
use tidings::domain::time::Timestamp;
use tidings::outbound::{Config, HttpClient, Request, Transport};

use crate::support::delivery::Draft;
use crate::support::receiver::{Received, Receiver};

const HOUR_MS: i64 = 3_600_000;

/// Data that broke somebody, and that JavaScript leaves alone once it is canonical.
const HOSTILE: &[&str] = &[
    "{}",
    r#"{"":"","a":[],"b":{},"c":null,"d":[[[[[[[[{"e":[true,false]}]]]]]]]]}"#,
    "{\"name\":\"Ünïcödé 日本語 Ελληνικά עברית 🦀 👨\u{200d}👩\u{200d}👧\"}",
    "{\"separators\":\"\u{2028}\u{2029}\u{85}\u{feff}\u{7f}\u{ad}\"}",
    r#"{"escapes":"\u0000\u001f\b\f\n\r\t\"\\\/\u00e9\ud83e\udd80"}"#,
    r#"{"lone":"\ud800","swapped":"\udc00\ud800"}"#,
    r#"{"html":"<script>alert('&amp;')</script>"}"#,
    r#"{"b":1,"10":"ten","2":"two","a":2,"0":"zero","-1":"minus","01":"padded","1.5":"fraction"}"#,
    r#"{"numbers":[1.0,2.50,-0,-0.0,1e3,1E21,1e-7,0.1,5e-324,1.7976931348623157e308,123456789.125,9007199254740991]}"#,
    r#"{"__proto__":{"x":1},"constructor":1,"toString":2,"toJSON":3,"length":4,"hasOwnProperty":null}"#,
    r#"{ "spaced" : [ 1 , 2 ] , "keys" : { "z" : 1 , "a" : 2 } }"#,
    r#"{"id":"evt_other","type":"other.type","timestamp":1,"data":{"data":"."}}"#,
];

/// What happened to a delivery after it was captured, or what is unusual about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tampering {
    None,
    FlippedBit,
    OtherSecret,
    OtherId,
    OtherTimestamp,
    Old,
    OldSecretInOverlap,
}

impl Tampering {
    const ALL: [Self; 7] = [
        Self::None,
        Self::FlippedBit,
        Self::OtherSecret,
        Self::OtherId,
        Self::OtherTimestamp,
        Self::Old,
        Self::OldSecretInOverlap,
    ];
}

/// What a verifier looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covers {
    /// The body alone, and one signature in the header.
    Body,
    /// Timestamp and body; one of several signatures is enough.
    TimestampBody,
    /// The same with the id.
    IdTimestampBody,
    /// Another scheme, by which our header means nothing (S17).
    AnotherScheme,
    /// Its own header over our body: shows that it can accept.
    ItsOwnHeader,
}

impl Covers {
    fn accepts(self, tampering: Tampering) -> bool {
        match (self, tampering) {
            (Self::AnotherScheme, _) => false,
            (Self::ItsOwnHeader, _) => true,
            (Self::Body | Self::TimestampBody | Self::IdTimestampBody, Tampering::None) => true,
            (
                Self::Body | Self::TimestampBody | Self::IdTimestampBody,
                Tampering::FlippedBit | Tampering::OtherSecret,
            ) => false,
            // A24: these schemes do not protect against replay, and the document's header has the new secret's signature only.
            (Self::Body, Tampering::OtherId | Tampering::OtherTimestamp | Tampering::Old) => true,
            (Self::Body, Tampering::OldSecretInOverlap) => false,
            (Self::TimestampBody, Tampering::OtherId) => true,
            (Self::IdTimestampBody, Tampering::OtherId) => false,
            (Self::TimestampBody | Self::IdTimestampBody, Tampering::OtherTimestamp | Tampering::Old) => false,
            (Self::TimestampBody | Self::IdTimestampBody, Tampering::OldSecretInOverlap) => true,
        }
    }
}

/// Every verifier that must have an opinion of a profile's deliveries.
fn verifiers_of(profile: &str) -> BTreeMap<&'static str, Covers> {
    let everywhere =
        ["crate standardwebhooks", "npm standardwebhooks", "npm svix", "pypi standardwebhooks", "pypi svix"]
            .map(|verifier| (verifier, Covers::IdTimestampBody));
    let own = match profile {
        "axie-v1" => vec![
            ("axie sample", Covers::Body),
            ("axie server sample", Covers::Body),
            ("npm @octokit/webhooks-methods", Covers::Body),
        ],
        "axissynapse-v1" => vec![
            ("axissynapse sample", Covers::Body),
            ("npm stripe", Covers::AnotherScheme),
            ("pypi stripe", Covers::AnotherScheme),
            ("npm stripe on its own header", Covers::ItsOwnHeader),
        ],
        "standard-v1" => vec![],
        "stripe-style-v1" => {
            return ["npm stripe", "pypi stripe"].map(|verifier| (verifier, Covers::TimestampBody)).into();
        }
        "ed25519-style-v1" => {
            return ["node Ed25519", "pypi cryptography"].map(|verifier| (verifier, Covers::IdTimestampBody)).into();
        }
        "github-style-v1" => return [("npm @octokit/webhooks-methods", Covers::Body)].into(),
        other => panic!("nobody verifies {other} yet"),
    };
    everywhere.into_iter().chain(own).collect()
}

/// A delivery as a verifier gets it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Delivery {
    profile: &'static str,
    secret: String,
    /// The secret is the key itself: supplied by its owner, not base64.
    raw: bool,
    /// By lower-case name.
    headers: BTreeMap<String, String>,
    body: String,
    #[serde(skip)]
    tampering: Tampering,
}

impl Delivery {
    /// What a receiver got, and the secret by which it is to be verified.
    pub(crate) fn received(profile: &'static str, secret: &str, received: Received) -> Self {
        let headers: BTreeMap<_, _> =
            received.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
        assert_eq!(headers.len(), received.headers.len(), "a header came twice: {:?}", received.headers);
        let body = String::from_utf8(received.body).unwrap();
        Self { profile, secret: secret.to_owned(), raw: false, headers, body, tampering: Tampering::None }
    }

    /// Whether every library of its profile in `verify.mjs` accepts it; they must agree.
    pub(crate) fn accepted(&self) -> bool {
        installed("node_modules", "package-lock.json");
        let opinions = run("node".as_ref(), "verify.mjs", std::slice::from_ref(self));
        let accepted = opinions.first().expect("somebody verifies this profile").accepted;
        assert!(opinions.iter().all(|opinion| opinion.accepted == accepted), "{opinions:?}");
        accepted
    }
}

/// A verifier's opinion of the delivery at that index.
#[derive(Debug, Deserialize)]
struct Opinion {
    index: usize,
    verifier: String,
    accepted: bool,
}

#[tokio::test]
async fn every_verifier_accepts_what_we_sent_and_nothing_that_was_changed() {
    // A24, A25, A26, A28, S16, S17
    let sent = sent();
    let captured = capture(&sent).await;
    let deliveries: Vec<Delivery> = captured.iter().chain(&tampered(&captured)).cloned().collect();

    let mut opinions = in_rust(&deliveries);
    installed("node_modules", "package-lock.json");
    opinions.extend(run("node".as_ref(), "verify.mjs", &deliveries));
    opinions.extend(run(&installed(".venv", "requirements.txt").join("bin/python"), "verify.py", &deliveries));

    let mut counts = BTreeMap::<(&str, Tampering), usize>::new();
    for (delivery, opinions) in deliveries.iter().zip(by_delivery(&opinions, deliveries.len())) {
        let verifiers = verifiers_of(delivery.profile);
        assert!(opinions.keys().eq(verifiers.keys()), "only {:?} on {delivery:?}", opinions.keys());
        for (verifier, covers) in verifiers {
            assert_eq!(opinions[verifier], covers.accepts(delivery.tampering), "{verifier} on {delivery:?}");
            *counts.entry((verifier, delivery.tampering)).or_default() += 1;
        }
    }
    println!("{} deliveries, {counts:?}", deliveries.len());
    let least = catalogue::builtin().len() + HOSTILE.len();
    assert!(least > 20 && counts.values().all(|&count| count >= least), "fewer than {least}: {counts:?}");
    assert_eq!(counts.len(), 14 * Tampering::ALL.len(), "a verifier or a tampering is missing: {counts:?}");
}

/// What each verifier accepts, delivery by delivery.
fn by_delivery(opinions: &[Opinion], deliveries: usize) -> Vec<BTreeMap<&str, bool>> {
    let mut by_delivery = vec![BTreeMap::new(); deliveries];
    for Opinion { index, verifier, accepted } in opinions {
        let before = by_delivery[*index].insert(verifier.as_str(), *accepted);
        assert_eq!(before, None, "{verifier} has two opinions of delivery {index}");
    }
    by_delivery
}

/// A delivery to be sent, and what its receiver knows.
struct Sent {
    profile: &'static Profile,
    request: Request,
    secret: Secret,
    raw: bool,
    tampering: Tampering,
}

/// Every example and every hostile text in every profile; an hour old; signed by two secrets; by a secret of the owner's.
fn sent() -> Vec<Sent> {
    let now = SystemClock.now();
    let an_hour_ago = Timestamp::from_ms(now.as_ms() - HOUR_MS);
    let examples = catalogue::builtin().iter().map(|known| (known.name.as_str(), known.example.to_string()));
    let hostile = HOSTILE.iter().map(|&text| ("user.created", text.to_owned()));
    let large = ("user.updated", format!(r#"{{"text":"{}"}}"#, "ß\\n".repeat(40_000)));
    let texts: Vec<(&str, String)> = examples.chain(hostile).chain([large]).collect();
    let mut all = vec![];
    for profile in profiles() {
        for (event_type, text) in &texts {
            let data = canonicalise(text.as_bytes()).unwrap();
            assert!(data.is_stable(), "{text}");
            let number = all.len() as u8;
            let algorithm = profile.algorithm();
            let both = [number, !number].map(|byte| Secret::generate_for(algorithm, &[byte; 32]));
            let [current, old] = &both;
            let of_owner = &match algorithm {
                Algorithm::HmacSha256 => Secret::supplied("0123456789abcdef & what the owner likes <3").unwrap(),
                Algorithm::Ed25519 => Secret::supplied(&format!("whsk_{}=", "Aa09".repeat(10) + "AAA")).unwrap(),
            };
            let mut send = |secrets: &[Secret], known: &Secret, attempted_at, tampering| {
                let draft = Draft {
                    profile,
                    message: MessageId::from_parts(now.as_ms() as u64, all.len() as u128),
                    event_type,
                    tenant: "ent_<\"Ö\u{2028}\">",
                    data: data.text(),
                    secrets,
                    attempted_at,
                };
                let raw = known == of_owner;
                let secret = known.public_key().map_or_else(|| known.clone(), Secret::stored);
                all.push(Sent { profile, request: draft.request(""), secret, raw, tampering });
            };
            send(&both[..1], current, now, Tampering::None);
            send(std::slice::from_ref(of_owner), of_owner, now, Tampering::None);
            send(&both, current, now, Tampering::None);
            send(&both, old, now, Tampering::OldSecretInOverlap);
            send(&both[..1], current, an_hour_ago, Tampering::Old);
        }
    }
    all
}

/// The program's profiles and the examples.
fn profiles() -> Vec<&'static Profile> {
    let examples = app::profiles::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/profiles")).unwrap();
    let examples = examples.keys().map(|name| profile::find(name).unwrap());
    profile::built_in().iter().chain(examples).collect()
}

/// Sends everything over TLS and returns what arrived, byte for byte.
async fn capture(sent: &[Sent]) -> Vec<Delivery> {
    let receiver = Receiver::start().await;
    let config = Config {
        allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        extra_ca: vec![receiver.ca_file()],
        ..Config::default()
    };
    let client = HttpClient::new(&config).unwrap();
    for Sent { request, .. } in sent {
        let exchange = client.post(Request { url: receiver.url("/hook"), ..request.clone() }).await;
        assert_eq!(exchange.result.expect("an answer").status, 200);
    }
    let received = receiver.requests();
    assert_eq!(received.len(), sent.len());
    let deliveries = received.into_iter().zip(sent).map(|(received, sent)| Delivery {
        raw: sent.raw,
        tampering: sent.tampering,
        ..Delivery::received(&sent.profile.name, sent.secret.expose(), received)
    });
    deliveries.collect()
}

/// Every captured delivery that nothing was wrong with, changed in each way.
fn tampered(captured: &[Delivery]) -> Vec<Delivery> {
    let intact: Vec<&Delivery> = captured.iter().filter(|delivery| delivery.tampering == Tampering::None).collect();
    let mut changed = vec![];
    for (index, delivery) in intact.iter().enumerate() {
        let other = intact[(index + 1) % intact.len()];
        let with = |tampering, change: &dyn Fn(&mut Delivery)| {
            let mut delivery = Delivery { tampering, ..(*delivery).clone() };
            change(&mut delivery);
            delivery
        };
        let with_header = |tampering, name: &str, value: String| {
            with(tampering, &|delivery| {
                let before = delivery.headers.insert(name.to_owned(), value.clone());
                assert_ne!(before.as_ref(), Some(&value), "nothing was changed");
            })
        };
        changed.push(with(Tampering::FlippedBit, &|delivery| delivery.body = flipped(&delivery.body)));
        changed.push(with(Tampering::OtherSecret, &|delivery| {
            let another = Secret::generate_for(Algorithm::Ed25519, &[255; 32]).public_key();
            if let Some(another) = another.filter(|_| delivery.secret.starts_with("whpk_")) {
                delivery.secret = another;
                return;
            }
            // Three more bytes, none of them zero: HMAC pads keys with zeros.
            let (from, to) = if delivery.raw { ("", "!!!") } else { ("whsec_", "whsec_////") };
            delivery.secret = delivery.secret.replacen(from, to, 1);
        }));
        let profile = profile::find(delivery.profile).unwrap();
        if let Some(name) = profile.header_of(Place::MessageId).map(str::to_lowercase) {
            let others = other.headers.get(&name).cloned();
            changed.push(with_header(Tampering::OtherId, &name, others.unwrap_or_else(|| "evt_of-another".to_owned())));
        }
        if let Some(name) = profile.header_of(Place::AttemptedAt).map(str::to_lowercase) {
            changed.push(with_header(Tampering::OtherTimestamp, &name, a_second_later(&delivery.headers[&name])));
        }
        if let Some(signature) = profile.signatures.iter().find(|signature| signature.value.has(Place::AttemptedAt)) {
            let name = signature.header.to_lowercase();
            let value = &delivery.headers[&name];
            let told = signature.value.read(value).unwrap();
            let (_, at) = told.into_iter().find(|(place, _)| *place == Place::AttemptedAt).unwrap();
            changed.push(with_header(Tampering::OtherTimestamp, &name, value.replacen(at, &a_second_later(at), 1)));
        }
    }
    changed
}

fn a_second_later(timestamp: &str) -> String {
    (timestamp.parse::<i64>().unwrap() + 1).to_string()
}

/// The body with another year: still JSON of the same form and length. One without a time ends otherwise.
fn flipped(body: &str) -> String {
    let at = body.find("\"20").map_or(body.len() - 1, |at| at + 1);
    let mut bytes = body.as_bytes().to_vec();
    bytes[at] ^= 1;
    String::from_utf8(bytes).unwrap()
}

/// The opinions of the Rust library.
fn in_rust(deliveries: &[Delivery]) -> Vec<Opinion> {
    let deliveries = deliveries.iter().enumerate();
    let is_standard = |delivery: &Delivery| {
        delivery.headers.get("webhook-signature").is_some_and(|signatures| signatures.starts_with("v1,"))
    };
    let standard = deliveries.filter(|(_, delivery)| is_standard(delivery));
    let opinions = standard.map(|(index, delivery)| {
        let webhook = if delivery.raw {
            standardwebhooks::Webhook::from_bytes(delivery.secret.clone().into_bytes())
        } else {
            standardwebhooks::Webhook::new(&delivery.secret)
        };
        let headers: HeaderMap = delivery
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap()))
            .collect();
        let accepted = webhook.unwrap().verify(delivery.body.as_bytes(), &headers).is_ok();
        Opinion { index, verifier: "crate standardwebhooks".to_owned(), accepted }
    });
    opinions.collect()
}

/// The opinions of a script in `tests/verifiers`.
fn run(program: &Path, script: &str, deliveries: &[Delivery]) -> Vec<Opinion> {
    let mut child = Command::new(program)
        .arg(script)
        .current_dir(verifiers())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
    let mut input = child.stdin.take().expect("stdin is piped");
    let lines: String = deliveries.iter().map(|delivery| serde_json::to_string(delivery).unwrap() + "\n").collect();
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeder.join().expect("the feeder does not panic").expect("the script reads all of its input");
    assert!(output.status.success(), "{script} ended with {}", output.status);
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// The folder of installed verifiers, if it is of the versions that the list beside it names.
pub(crate) fn installed(folder: &str, list: &str) -> PathBuf {
    let folder = verifiers().join(folder);
    let wanted = std::fs::read(verifiers().join(list)).unwrap();
    let there = std::fs::read(folder.join(".installed")).unwrap_or_default();
    assert!(
        there == wanted,
        "{} is missing or old: run the tests by scripts/test, or scripts/install-verifiers before them",
        folder.display()
    );
    folder
}

fn verifiers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifiers")
}
