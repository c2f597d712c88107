//! In which media type to answer, and with which status.
//!
//! The GraphQL-over-HTTP draft has two types. Under its own one a status says what became of the request; under
//! `application/json` a well-formed request is answered with 200, since older clients take anything else for a fault of
//! the transport. The draft still moves here, so that the whole mapping stands in this file.

use axum::http::{HeaderMap, StatusCode, header};

use crate::error_code::ErrorCode;
use crate::graphql::Outcome;

/// Media types that we answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// `application/json`.
    Json,
    /// `application/graphql-response+json`.
    GraphqlResponse,
}

impl MediaType {
    /// As `Content-Type` has it.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        }
    }

    /// How closely a range of `Accept` names it; `None` if not at all.
    fn named_by(self, range: &str) -> Option<u8> {
        let own = match self {
            Self::Json => "application/json",
            Self::GraphqlResponse => "application/graphql-response+json",
        };
        match range {
            "*/*" => Some(0),
            "application/*" => Some(1),
            range if range == own => Some(2),
            _ => None,
        }
    }
}

/// The type that the client likes best; `None` if it takes neither.
pub(super) fn negotiate(headers: &HeaderMap) -> Option<MediaType> {
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",").to_ascii_lowercase();
    if accept.trim().is_empty() {
        return Some(MediaType::Json);
    }
    let ranges: Vec<_> = accept.split(',').map(range).collect();
    // The closest range decides how much a type is liked; of two that are liked alike, the one that was named first.
    let liked = |media_type: MediaType| {
        let named =
            |(index, (range, liking)): (usize, &(&str, u16))| Some((media_type.named_by(range)?, index, *liking));
        let closest =
            ranges.iter().enumerate().filter_map(named).max_by_key(|(close, index, _)| (*close, usize::MAX - *index));
        closest.filter(|(_, _, liking)| *liking > 0).map(|(_, index, liking)| (liking, usize::MAX - index))
    };
    match (liked(MediaType::Json), liked(MediaType::GraphqlResponse)) {
        (None, None) => None,
        (json, response) if json >= response => Some(MediaType::Json),
        _ => Some(MediaType::GraphqlResponse),
    }
}

/// Whether the client names events, and likes nothing that it names better.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",").to_ascii_lowercase();
    let liked = |wanted: &str| {
        accept.split(',').map(range).filter(|(range, _)| *range == wanted).map(|(_, liking)| liking).max()
    };
    let others = ["application/json", "application/graphql-response+json"].into_iter().filter_map(liked).max();
    liked("text/event-stream").is_some_and(|events| events > 0 && others.is_none_or(|others| events >= others))
}

/// A range and its liking in thousandths. A liking that cannot be read is none.
fn range(text: &str) -> (&str, u16) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let liking = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.parse::<f32>().ok());
    (range, liking.filter(|liking| (0.0..=1.0).contains(liking)).map_or(0, |liking| (liking * 1_000.0) as u16))
}

/// Whether the body of a POST is JSON in UTF-8. A form of a foreign page can send neither that type nor a preflight.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|essence| essence == "application/json")
}

/// The media type of a body in UTF-8, without its parameters and in small letters; `None` if it is none or in another
/// encoding.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return None };
    let text = value.to_str().ok()?.to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next()?.to_owned();
    let is_utf_8 =
        |part: &str| part.strip_prefix("charset=").is_none_or(|charset| charset.trim_matches('"') == "utf-8");
    parts.all(is_utf_8).then_some(essence)
}

/// The status of an answer.
pub(super) fn status(outcome: Outcome, media_type: MediaType) -> StatusCode {
    let code = match (outcome, media_type) {
        (Outcome::Executed, _) => return StatusCode::OK,
        (Outcome::TurnedAway(code), _) => code,
        (
            Outcome::Refused(
                ErrorCode::GraphqlParseFailed | ErrorCode::GraphqlValidationFailed | ErrorCode::QueryTooComplex,
            ),
            MediaType::Json,
        ) => return StatusCode::OK,
        (Outcome::Refused(code), _) => code,
    };
    StatusCode::from_u16(code.http_status()).expect("a test reads every status")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_clients_favourite_type_is_answered() {
        use MediaType::{GraphqlResponse, Json};
        for (accept, answered) in [
            ("", Some(Json)),
            ("*/*", Some(Json)),
            ("application/json", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json; charset=utf-8", Some(Json)),
            ("application/graphql-response+json", Some(GraphqlResponse)),
            ("Application/GraphQL-Response+JSON; charset=utf-8", Some(GraphqlResponse)),
            ("application/graphql-response+json, application/json;q=0.9", Some(GraphqlResponse)),
            ("application/json, application/graphql-response+json", Some(Json)),
            ("application/graphql-response+json;q=0.5, application/json", Some(Json)),
            ("application/graphql-response+json, */*", Some(GraphqlResponse)),
            ("text/html, */*;q=0.1", Some(Json)),
            ("application/json;q=0, */*", Some(GraphqlResponse)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=never", None),
        ] {
            assert_eq!(negotiate(&with(header::ACCEPT, accept)), answered, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new()), Some(Json));
    }

    #[test]
    fn events_are_sent_to_whoever_names_them() {
        for (accept, wanted) in [
            ("text/event-stream", true),
            ("text/event-stream, */*;q=0.1", true),
            ("application/json, text/event-stream", true),
            ("application/json, text/event-stream;q=0.9", false),
            ("text/event-stream;q=0", false),
            ("text/*", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(wants_events(&with(header::ACCEPT, accept)), wanted, "{accept}");
        }
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
        for (content_type, read) in [
            ("application/json", true),
            ("Application/JSON; charset=\"UTF-8\"", true),
            ("application/json; charset=latin1", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=x", false),
            ("application/graphql", false),
            ("", false),
        ] {
            assert_eq!(is_json(&with(header::CONTENT_TYPE, content_type)), read, "{content_type}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_status_follows_from_what_became_of_the_request_and_what_the_client_takes() {
        use MediaType::{GraphqlResponse, Json};
        for (outcome, under_json, under_response) in [
            (Outcome::Executed, 200, 200),
            (Outcome::TurnedAway(ErrorCode::Overloaded), 503, 503),
            (Outcome::TurnedAway(ErrorCode::StorageFull), 503, 503),
            (Outcome::TurnedAway(ErrorCode::StorageUnavailable), 503, 503),
            (Outcome::Refused(ErrorCode::GraphqlParseFailed), 200, 400),
            (Outcome::Refused(ErrorCode::GraphqlValidationFailed), 200, 400),
            (Outcome::Refused(ErrorCode::QueryTooComplex), 200, 400),
            (Outcome::Refused(ErrorCode::BadRequest), 400, 400),
            (Outcome::Refused(ErrorCode::QueryTooLarge), 413, 413),
            (Outcome::Refused(ErrorCode::Unauthenticated), 401, 401),
            (Outcome::Refused(ErrorCode::Internal), 500, 500),
        ] {
            assert_eq!(status(outcome, Json).as_u16(), under_json, "{outcome:?}");
            assert_eq!(status(outcome, GraphqlResponse).as_u16(), under_response, "{outcome:?}");
        }
        for code in ErrorCode::ALL {
            status(Outcome::Refused(*code), GraphqlResponse);
        }
    }
}
