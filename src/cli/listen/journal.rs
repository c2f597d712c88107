//! What the receiver tells of each request: a line for people, and a line for programs.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::faults::Answer;
use super::verdict::{Delivery, Verdict};
use crate::domain::time::Timestamp;

/// The most characters that a line for people shows of what a stranger wrote.
const MAX_SHOWN_CHARS: usize = 120;

/// One request and what became of it.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) at: Timestamp,
    pub(super) delivery: &'a Delivery,
    pub(super) event_type: Option<String>,
    pub(super) verdict: &'a Verdict,
    pub(super) answer: Answer,
}

/// The line for programs. Its fields stay; more may come.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    path: &'a str,
    message_id: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a String>,
    headers: &'a BTreeMap<String, String>,
    body: &'a str,
    body_sha256: String,
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    answer: Answer,
}

impl Entry<'_> {
    /// `TIME PATH ID TYPE SIZE VERDICT ANSWER`, with `-` for what is not known.
    pub(super) fn to_text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Verified => "VERIFIED".to_owned(),
            Verdict::Refused(reason) => format!("REFUSED {reason}"),
            Verdict::UnknownPath => "UNKNOWN PATH no secret is known for it".to_owned(),
            Verdict::NotJudged(_, reason) => format!("NOT JUDGED {reason}"),
        };
        let answer = match self.answer {
            Answer::Status(status) => format!("answered {status}"),
            Answer::Hang => "not answered".to_owned(),
        };
        format!(
            "{} {} {} {} {} bytes {} {answer}",
            self.at.to_rfc3339_ms(),
            shown(&self.delivery.path),
            self.delivery.message_id().map_or_else(|| "-".to_owned(), |id| shown(id)),
            self.event_type.as_deref().map_or_else(|| "-".to_owned(), shown),
            self.delivery.body.len(),
            shown(&verdict),
        )
    }

    /// One JSON object without line breaks. A body that is not UTF-8 has replacement characters; its digest is exact.
    pub(super) fn to_json(&self) -> String {
        let line = Line {
            at: self.at.to_rfc3339_ms(),
            path: &self.delivery.path,
            message_id: self.delivery.message_id(),
            event_type: self.event_type.as_ref(),
            headers: &self.delivery.headers,
            body: &String::from_utf8_lossy(&self.delivery.body),
            body_sha256: hex::encode(Sha256::digest(&self.delivery.body)),
            verified: *self.verdict == Verdict::Verified,
            refusal: self.verdict.refusal(),
            answer: self.answer,
        };
        serde_json::to_string(&line).expect("texts, numbers and a map by text are JSON")
    }
}

/// Without control characters, which a terminal would obey, and not too long.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).flat_map(|char| char.escape_debug()).collect();
    if text.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

/// Where both lines go.
pub(super) struct Journal {
    out: Mutex<Box<dyn Write + Send>>,
    log: Option<Mutex<File>>,
}

impl Journal {
    /// A journal that prints to `out` and appends to the file `log`, which is made if it does not exist.
    pub(super) fn new(out: impl Write + Send + 'static, log: Option<&Path>) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path).map(Mutex::new);
        Ok(Self { out: Mutex::new(Box::new(out)), log: log.map(open).transpose()? })
    }

    /// Prints a line. Nobody may be reading any more, which is no reason to stop receiving.
    pub(super) fn print(&self, line: &str) {
        let mut out = self.out.lock().expect("no holder of this lock can panic");
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// Appends the line for programs, in one write and past every buffer of this process.
    pub(super) fn append(&self, entry: &Entry<'_>) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let line = entry.to_json() + "\n";
        log.lock().expect("no holder of this lock can panic").write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn delivery() -> Delivery {
        let headers = BTreeMap::from([("webhook-id".to_owned(), "evt_1".to_owned())]);
        Delivery { path: "/axie".into(), headers, body: Bytes::from_static(b"{\"a\":1}") }
    }

    fn entry<'a>(delivery: &'a Delivery, verdict: &'a Verdict, answer: Answer) -> Entry<'a> {
        let event_type = Some("user.created".to_owned());
        Entry { at: Timestamp::from_ms(1_763_894_415_483), delivery, event_type, verdict, answer }
    }

    #[test]
    fn a_delivery_is_a_line_that_a_person_can_read() {
        let delivery = delivery();
        assert_eq!(
            entry(&delivery, &Verdict::Verified, Answer::Status(503)).to_text(),
            "2025-11-23T10:40:15.483Z /axie evt_1 user.created 7 bytes VERIFIED answered 503"
        );
        let refused = Verdict::Refused("no signature in 'X-Webhook-Signature' fits the body".into());
        assert!(
            entry(&delivery, &refused, Answer::Hang)
                .to_text()
                .ends_with("7 bytes REFUSED no signature in 'X-Webhook-Signature' fits the body not answered")
        );
    }

    #[test]
    fn a_line_obeys_no_stranger() {
        let mut delivery = delivery();
        delivery.path = format!("/\u{1b}[2J\n{}", "x".repeat(500));
        let line = entry(&delivery, &Verdict::UnknownPath, Answer::Status(404)).to_text();
        assert!(line.chars().all(|char| !char.is_control()) && line.len() < 300, "{line}");
    }

    #[test]
    fn the_log_holds_the_body_and_its_digest() {
        let delivery = delivery();
        assert_eq!(
            entry(&delivery, &Verdict::UnknownPath, Answer::Hang).to_json(),
            concat!(
                r#"{"at":"2025-11-23T10:40:15.483Z","path":"/axie","message_id":"evt_1","event_type":"user.created","#,
                r#""headers":{"webhook-id":"evt_1"},"body":"{\"a\":1}","#,
                r#""body_sha256":"015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862","#,
                r#""verified":false,"refusal":"no secret is known for this path","answer":"hang"}"#
            )
        );
    }
}
