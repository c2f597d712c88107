//! The words of `graphql-transport-ws`.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::graphql::{Answer, Outcome};

/// The subprotocol's name.
pub(in crate::http) const SUBPROTOCOL: &str = "graphql-transport-ws";
/// The most bytes of an operation's id.
const MAX_ID_BYTES: usize = 256;
/// The most bytes of a reason that fit into a close frame.
const MAX_REASON_BYTES: usize = 123;

/// A message of the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// `connection_init` with the `authorization` of its payload.
    Init(Option<String>),
    /// `ping` with its payload.
    Ping(Option<String>),
    /// `pong`.
    Pong,
    /// `subscribe` with the id and the request.
    Subscribe(String, String),
    /// `complete` with the id.
    Complete(String),
}

#[derive(Deserialize)]
struct Form<'a> {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct InitPayload {
    #[serde(alias = "Authorization")]
    authorization: Option<String>,
}

impl Message {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form: Form<'_> = serde_json::from_str(text).map_err(|error| format!("Invalid message: {error}"))?;
        let payload = form.payload.map(RawValue::get).filter(|text| *text != "null");
        let object = |payload: Option<&str>| match payload {
            Some(text) if !text.starts_with('{') => Err(format!("Invalid message: the payload of '{}'", form.kind)),
            Some(_) | None => Ok(()),
        };
        let id = || match &form.id {
            Some(id) if !id.is_empty() && id.len() <= MAX_ID_BYTES => Ok(id.clone()),
            Some(_) | None => Err(format!("Invalid message: the id of '{}'", form.kind)),
        };
        match form.kind.as_str() {
            "connection_init" => {
                object(payload)?;
                let read = |text| serde_json::from_str(text).map_err(|error| format!("Invalid message: {error}"));
                let payload: Option<InitPayload> = payload.map(read).transpose()?;
                Ok(Self::Init(payload.and_then(|payload| payload.authorization)))
            }
            "ping" => object(payload).map(|()| Self::Ping(payload.map(str::to_owned))),
            "pong" => object(payload).map(|()| Self::Pong),
            "subscribe" => {
                let request = payload.ok_or("Invalid message: 'subscribe' without a payload")?;
                Ok(Self::Subscribe(id()?, request.to_owned()))
            }
            "complete" => Ok(Self::Complete(id()?)),
            other => Err(format!("Invalid message: no type '{}'", cut(other, 32))),
        }
    }
}

/// `connection_ack`.
pub(super) const ACK: &str = r#"{"type":"connection_ack"}"#;

/// `pong`, with what came with the `ping`.
pub(super) fn pong(payload: Option<&str>) -> String {
    match payload {
        None => r#"{"type":"pong"}"#.to_owned(),
        Some(payload) => format!(r#"{{"type":"pong","payload":{payload}}}"#),
    }
}

/// `complete`.
pub(super) fn complete(id: &str) -> String {
    json!({ "id": id, "type": "complete" }).to_string()
}

/// `next`; `error`, which ends the operation, where nothing was executed.
pub(super) fn answer(id: &str, answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Errors<'a> {
        #[serde(borrow)]
        errors: &'a RawValue,
    }
    let body = String::from_utf8_lossy(&answer.body);
    let errors = serde_json::from_str(&body).map(|errors: Errors<'_>| errors.errors.get());
    let (kind, payload) = match (answer.outcome, errors) {
        (Outcome::Refused(_), Ok(errors)) => ("error", errors),
        (Outcome::Refused(_) | Outcome::Executed | Outcome::TurnedAway(_), _) => ("next", &*body),
    };
    // The payload is not read again: it may be long, and keeps every digit of its numbers.
    format!(r#"{{"id":{},"type":"{kind}","payload":{payload}}}"#, json!(id))
}

/// Why a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    pub(super) reason: String,
}

impl Close {
    /// The reason is cut to what fits.
    pub(super) fn new(code: u16, reason: &str) -> Self {
        Self { code, reason: cut(reason, MAX_REASON_BYTES).to_owned() }
    }
}

fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_others_refused() {
        let init = |authorization: &str| Message::Init(Some(authorization.to_owned()));
        for (text, message) in [
            (r#"{"type":"connection_init"}"#, Message::Init(None)),
            (r#"{"type":"connection_init","payload":null}"#, Message::Init(None)),
            (r#"{"type":"connection_init","payload":{"authorization":"Bearer x","more":[1]}}"#, init("Bearer x")),
            (r#"{"type":"connection_init","payload":{"Authorization":"Bearer x"}}"#, init("Bearer x")),
            (r#"{"type":"ping","payload":{"n": 1.0}}"#, Message::Ping(Some(r#"{"n": 1.0}"#.into()))),
            (r#"{"type":"pong","payload":{}}"#, Message::Pong),
            (
                r#"{"id":"1","type":"subscribe","payload":{"query":"x"}}"#,
                Message::Subscribe("1".into(), r#"{"query":"x"}"#.into()),
            ),
            (r#"{"id":"1","type":"complete"}"#, Message::Complete("1".into())),
        ] {
            assert_eq!(Message::parse(text), Ok(message), "{text}");
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"connection_init","payload":[]}"#,
            r#"{"type":"ping","payload":"x"}"#,
            r#"{"type":"subscribe","payload":{}}"#,
            r#"{"id":"","type":"subscribe","payload":{}}"#,
            r#"{"id":"1","type":"subscribe"}"#,
            r#"{"type":"complete"}"#,
            r#"{"id":"1","type":"start","payload":{}}"#,
        ] {
            assert!(Message::parse(text).is_err(), "{text}");
        }
        let long = format!(r#"{{"id":"{}","type":"complete"}}"#, "x".repeat(MAX_ID_BYTES + 1));
        assert!(Message::parse(&long).is_err());
    }

    #[test]
    fn a_reason_fits_into_a_frame() {
        let close = Close::new(4400, &"ü".repeat(100));
        assert_eq!((close.reason.len(), close.reason.chars().count()), (122, 61));
        assert!(Message::parse(&format!(r#"{{"type":"{}"}}"#, "ü".repeat(999))).unwrap_err().len() < MAX_REASON_BYTES);
    }

    #[test]
    fn an_id_is_escaped_and_a_payload_left_alone() {
        let refused = Answer::refused(crate::error_code::ErrorCode::BadRequest, "no");
        let executed =
            Answer { body: br#"{"data":{"n":1.00}}"#.to_vec(), outcome: Outcome::Executed, ..refused.clone() };
        assert_eq!(answer("\"", &executed), r#"{"id":"\"","type":"next","payload":{"data":{"n":1.00}}}"#);
        assert!(answer("1", &refused).starts_with(r#"{"id":"1","type":"error","payload":[{"#));
        assert_eq!(pong(Some("{}")), r#"{"type":"pong","payload":{}}"#);
    }
}
