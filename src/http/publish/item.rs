//! What publishers write, in each of its forms, as one kind of request.

use std::borrow::Cow;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::MAX_MESSAGES;
use super::answer::Problem;
use crate::domain::message::{MAX_IDEMPOTENCY_KEY_CHARS, Publish};
use crate::domain::time::Timestamp;
use crate::error_code::ErrorCode;

/// How one message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Ours.
    Plain,
    /// A CloudEvent in structured mode.
    CloudEvent,
    /// Several of them.
    CloudEventBatch,
    /// A CloudEvent in binary mode: the body is its data.
    Binary,
}

/// A message in our own form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Plain<'a> {
    #[serde(rename = "type")]
    event_type: String,
    /// As it was written, so that every digit is kept.
    #[serde(borrow)]
    data: &'a RawValue,
    idempotency_key: Option<String>,
    occurred_at: Option<String>,
}

/// What we take of a CloudEvent (version 1.0 of their specification). Its other attributes are not delivered.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    time: Option<String>,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<IgnoredAny>,
}

impl Form {
    /// Whether the body holds several messages.
    pub(super) fn is_array(self, body: &[u8]) -> bool {
        match self {
            Self::Plain => body.trim_ascii_start().first() == Some(&b'['),
            Self::CloudEventBatch => true,
            Self::CloudEvent | Self::Binary => false,
        }
    }
}

/// Reads the body of one message.
pub(super) fn single(form: Form, headers: &HeaderMap, body: &[u8]) -> Result<Publish, Problem> {
    let mut publish = match form {
        Form::Plain => plain(body)?,
        Form::CloudEvent | Form::CloudEventBatch => cloud_event(parsed(body)?)?,
        Form::Binary => return binary(headers, body),
    };
    let Some(key) = header(headers, "idempotency-key")? else { return Ok(publish) };
    // The draft of that header has it in quotation marks; hardly anybody writes them.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if publish.idempotency_key.as_ref().is_some_and(|own| own != key) {
        let message = "the header 'idempotency-key' and the message name different keys";
        return Err(Problem::new(ErrorCode::InvalidInput, message).about("idempotencyKey"));
    }
    publish.idempotency_key = Some(key.to_owned());
    Ok(publish)
}

/// One key cannot stand for several messages, and a CloudEvent in binary mode is known by its source and id: a publisher
/// that gives one all the same must not believe itself safe.
pub(super) fn without_key(headers: &HeaderMap) -> Result<(), Problem> {
    if !headers.contains_key("idempotency-key") {
        return Ok(());
    }
    let message = "the header 'idempotency-key' is for one message that is no CloudEvent in binary mode";
    Err(Problem::new(ErrorCode::InvalidInput, message).about("idempotencyKey"))
}

/// Reads the body of several messages: each may be refused on its own.
pub(super) fn several(form: Form, body: &[u8]) -> Result<Vec<Result<Publish, Problem>>, Problem> {
    let items: Vec<&RawValue> = parsed(body)?;
    if items.len() > MAX_MESSAGES {
        let message = format!("at most {MAX_MESSAGES} messages are allowed; send more as 'application/x-ndjson'");
        return Err(Problem::new(ErrorCode::LimitExceeded, message));
    }
    let read = |item: &&RawValue| match form {
        Form::CloudEvent | Form::CloudEventBatch => cloud_event(parsed(item.get().as_bytes())?),
        Form::Plain | Form::Binary => plain(item.get().as_bytes()),
    };
    Ok(items.iter().map(read).collect())
}

/// Reads a message in our own form.
pub(super) fn plain(text: &[u8]) -> Result<Publish, Problem> {
    // Serde would take an array for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(ErrorCode::BadRequest, "a message is a JSON object"));
    }
    let Plain { event_type, data, idempotency_key, occurred_at } = parsed(text)?;
    let occurred_at = occurred_at.as_deref().map(|text| moment(text, "occurredAt")).transpose()?;
    Ok(Publish { event_type, data: data.get().to_owned(), occurred_at, idempotency_key })
}

fn cloud_event(event: CloudEvent<'_>) -> Result<Publish, Problem> {
    let CloudEvent { specversion, id, source, event_type, time, datacontenttype, data, data_base64 } = event;
    if specversion != "1.0" {
        let message = format!("CloudEvents of version '{specversion}' are not known, only '1.0'");
        return Err(Problem::new(ErrorCode::InvalidInput, message).about("specversion"));
    }
    if data_base64.is_some() || datacontenttype.is_some_and(|media_type| !is_json(&media_type)) {
        return Err(Problem::new(ErrorCode::InvalidInput, "the data must be JSON").about("data"));
    }
    let missing = || Problem::new(ErrorCode::InvalidInput, "a message has data, a JSON object").about("data");
    let data = data.ok_or_else(missing)?.get().to_owned();
    let occurred_at = time.as_deref().map(|text| moment(text, "time")).transpose()?;
    let idempotency_key = Some(identity(&source, &id)?);
    Ok(Publish { event_type, data, occurred_at, idempotency_key })
}

fn binary(headers: &HeaderMap, body: &[u8]) -> Result<Publish, Problem> {
    without_key(headers)?;
    let attribute = |name: &'static str| {
        header(headers, name)?
            .map(percent_decoded)
            .ok_or_else(|| Problem::new(ErrorCode::BadRequest, format!("the header '{name}' is missing")).about(name))
    };
    let data = std::str::from_utf8(body).map_err(|_| Problem::new(ErrorCode::BadRequest, "the body is not UTF-8"))?;
    cloud_event(CloudEvent {
        specversion: attribute("ce-specversion")?.into_owned(),
        id: attribute("ce-id")?.into_owned(),
        source: attribute("ce-source")?.into_owned(),
        event_type: attribute("ce-type")?.into_owned(),
        time: header(headers, "ce-time")?.map(|text| percent_decoded(text).into_owned()),
        datacontenttype: None,
        data: Some(parsed(data.as_bytes())?),
        data_base64: None,
    })
}

/// A CloudEvent is the same as another one if source and id are the same.
fn identity(source: &str, id: &str) -> Result<String, Problem> {
    // Between the two stands the only space that a URI reference can have: no two pairs are the same key.
    let key = format!("{} {id}", source.replace(' ', "%20"));
    if source.is_empty() || id.is_empty() || key.chars().count() > MAX_IDEMPOTENCY_KEY_CHARS {
        let most = MAX_IDEMPOTENCY_KEY_CHARS - 1;
        let message = format!("'source' and 'id' must not be empty, and have at most {most} characters together");
        return Err(Problem::new(ErrorCode::InvalidInput, message).about("id"));
    }
    Ok(key)
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

fn moment(text: &str, field: &'static str) -> Result<Timestamp, Problem> {
    Timestamp::parse(text).map_err(|error| Problem::new(ErrorCode::InvalidInput, error.to_string()).about(field))
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(text).map_err(|error| Problem::new(ErrorCode::BadRequest, format!("not a message: {error}")))
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let wrong = || Problem::new(ErrorCode::BadRequest, format!("the header '{name}' is not one line of ASCII"));
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| wrong()),
        (Some(_), Some(_)) => Err(wrong()),
    }
}

/// As CloudEvents' binding to HTTP writes what is not visible ASCII.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}
