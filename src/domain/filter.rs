//! Names of event types, and the filters that pick them (S10–S13).
//!
//! A name is dot-separated segments of ASCII letters, digits and `_`. A filter is the same, and may put `*` (exactly
//! one segment) or `**` (any number of segments, zero included) in place of a segment. Upper and lower case differ.
//!
//! - Every name is a valid filter that matches itself and nothing else.
//! - Matching takes at most (segments of the filter) × (segments of the name) comparisons, whatever the filter.
//! - `**` includes zero segments, so that `account.**` also covers an event called `account`: a filter that is too
//!   wide is seen at once, one that is too narrow loses events in silence (S12).

use std::borrow::Cow;
use std::fmt;
use std::str::{FromStr, Split};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error_code::ErrorCode;

/// The longest name or filter, in bytes.
pub const MAX_BYTES: usize = 128;
/// The most segments a name or filter may have.
pub const MAX_SEGMENTS: usize = 10;

/// The first segment of the names that no tenant may register.
const RESERVED: &str = "webhook";

/// What kind of thing happened, such as `user.created`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Arc<str>);

/// A glob over event types. Several filters on one subscription are alternatives; none at all picks nothing (S5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Arc<str>);

/// What `*` means at the end of a filter that somebody writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrailingStar {
    /// One segment, as anywhere else.
    #[default]
    One,
    /// One segment or more: `platform.saml.*` also picks `platform.saml.provider.enabled` (S11).
    Rest,
}

/// One part of a filter between two dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// This very segment.
    Name(&'a str),
    /// `*`: any one segment.
    One,
    /// `**`: any number of segments, zero included.
    Any,
}

/// The text names no event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event type '{text}' is invalid: {fault}")]
pub struct InvalidEventType {
    text: String,
    fault: Fault,
}

/// The text is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter '{text}' is invalid: {fault}")]
pub struct InvalidFilter {
    text: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("it has more than {MAX_SEGMENTS} segments")]
    TooManySegments,
    #[error("there is nothing before the first dot, after the last, or between two of them")]
    EmptySegment,
    #[error("'*' and '**' stand alone between dots, never beside other characters")]
    MixedStar,
    #[error("only filters may contain '*'")]
    StarInName,
    #[error("{0:?} is not allowed, only ASCII letters, digits, '_' and dots between them")]
    Character(char),
}

impl EventType {
    /// The type of a test delivery (A16). Reserved: we alone send it.
    pub fn webhook_test() -> Self {
        Self(Arc::from("webhook.test"))
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, InvalidEventType> {
        let invalid = |fault| InvalidEventType { text: excerpt(text), fault };
        let star = |segment: &str| if segment.contains('*') { Err(Fault::StarInName) } else { check_name(segment) };
        check(text, star).map_err(invalid)?;
        Ok(Self(Arc::from(text)))
    }

    /// The name as it is written in payloads and headers.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name belongs to us (`webhook.…`), so that tenants may neither register nor publish it.
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some(RESERVED)
    }

    /// The parts between the dots; never none.
    pub fn segments(&self) -> Split<'_, char> {
        self.0.split('.')
    }
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// Says what is wrong with the text: `foo*`, `***`, empty segments, spaces, too long, too many segments.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let segment = |segment: &str| match segment {
            "*" | "**" => Ok(()),
            mixed if mixed.contains('*') => Err(Fault::MixedStar),
            name => check_name(name),
        };
        check(text, segment).map_err(|fault| InvalidFilter { text: excerpt(text), fault })?;
        Ok(Self(Arc::from(text)))
    }

    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the dots; never none.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> + Clone {
        self.0.split('.').map(|segment| match segment {
            "*" => Segment::One,
            "**" => Segment::Any,
            name => Segment::Name(name),
        })
    }

    /// Whether the filter picks one event type only.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether the filter picks the event type.
    ///
    /// Walks both side by side. Where they part, the last `**` takes one more segment and the walk goes on behind it;
    /// an earlier `**` never has to be asked again, for whatever it could still take, the later one can take as well.
    pub fn matches(&self, event_type: &EventType) -> bool {
        if self.is_exact() {
            return self.0 == event_type.0;
        }
        let (mut pattern, mut name) = (self.segments(), event_type.segments());
        let mut resume = None;
        loop {
            let fits = match pattern.next() {
                Some(Segment::Any) => {
                    resume = Some((pattern.clone(), name.clone()));
                    true
                }
                Some(Segment::One) => name.next().is_some(),
                Some(Segment::Name(segment)) => name.next() == Some(segment),
                None if name.next().is_none() => return true,
                None => false,
            };
            if !fits {
                let Some((behind, rest)) = &mut resume else { return false };
                if rest.next().is_none() {
                    return false;
                }
                (pattern, name) = (behind.clone(), rest.clone());
            }
        }
    }

    /// This filter in words that mean the same everywhere: where a last `*` takes the rest, `**` follows it. So whoever
    /// reads it later need not know how it was meant.
    ///
    /// # Errors
    /// It is too long for that.
    pub fn meant(self, star: TrailingStar) -> Result<Self, InvalidFilter> {
        let takes_rest = star == TrailingStar::Rest && self.segments().last() == Some(Segment::One);
        // No name has more segments than that: there is no rest, unless a `**` takes none.
        let takes_all = || self.segments().count() == MAX_SEGMENTS && self.segments().all(|it| it != Segment::Any);
        if !takes_rest || takes_all() {
            return Ok(self);
        }
        Self::parse(&format!("{self}.**"))
    }

    /// This filter with `**` for its last `*`, if `*` is its last segment: the reading that the AxisSynapse document
    /// gives to `platform.saml.*` (S11).
    pub fn with_open_end(&self) -> Option<Self> {
        let before = self.0.strip_suffix('*').filter(|before| before.is_empty() || before.ends_with('.'))?;
        Some(Self(format!("{before}**").into())).filter(|open| open.0.len() <= MAX_BYTES)
    }
}

/// Whether one of the filters picks the event type (S13).
pub fn matches_any(filters: &[Filter], event_type: &EventType) -> bool {
    filters.iter().any(|filter| filter.matches(event_type))
}

/// The wider filter that a person may have meant: where a last `*` misses some of the given types that `**` would
/// pick, the `**` form (S11).
pub fn narrow_star_hint<'a>(filter: &Filter, types: impl IntoIterator<Item = &'a EventType>) -> Option<Filter> {
    let open = filter.with_open_end()?;
    let misses = types.into_iter().any(|event_type| open.matches(event_type) && !filter.matches(event_type));
    misses.then_some(open)
}

fn check(text: &str, segment: impl Fn(&str) -> Result<(), Fault>) -> Result<(), Fault> {
    if text.is_empty() {
        return Err(Fault::Empty);
    }
    if text.len() > MAX_BYTES {
        return Err(Fault::TooLong);
    }
    text.split('.').try_for_each(segment)?;
    if text.split('.').count() > MAX_SEGMENTS { Err(Fault::TooManySegments) } else { Ok(()) }
}

fn check_name(segment: &str) -> Result<(), Fault> {
    if segment.is_empty() {
        return Err(Fault::EmptySegment);
    }
    match segment.chars().find(|&c| !c.is_ascii_alphanumeric() && c != '_') {
        Some(stranger) => Err(Fault::Character(stranger)),
        None => Ok(()),
    }
}

/// As much of a refused text as an error message should carry, on one line.
fn excerpt(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

impl InvalidEventType {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidInput
    }
}

impl InvalidFilter {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::WebhookFilterInvalid
    }
}

macro_rules! text_form {
    ($($name:ident, $error:ident;)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_form! {
    EventType, InvalidEventType;
    Filter, InvalidFilter;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    fn event_type(text: &str) -> EventType {
        EventType::parse(text).unwrap()
    }

    fn picks(pattern: &str, name: &str) -> bool {
        filter(pattern).matches(&event_type(name))
    }

    /// What a filter means, said as plainly as possible and as slowly.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**", behind @ ..], _) => (0..=name.len()).any(|taken| naive(behind, &name[taken..])),
            (["*", behind @ ..], [_, rest @ ..]) => naive(behind, rest),
            ([one, behind @ ..], [other, rest @ ..]) => one == other && naive(behind, rest),
            _ => false,
        }
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_any_number_of_them() {
        // S10, S12
        for (pattern, name) in [
            ("user.created", "user.created"),
            ("platform.saml.*", "platform.saml.enabled"),
            ("*.created", "user.created"),
            ("platform.**", "platform.saml.provider.enabled"),
            ("platform.**", "platform"),
            ("**", "user"),
            ("**.enabled", "enabled"),
            ("**.enabled", "platform.saml.provider.enabled"),
            ("platform.**.enabled", "platform.enabled"),
            ("a.**.b.**.c", "a.b.x.b.y.c"),
            ("**.a.*", "a.a.a"),
        ] {
            assert!(picks(pattern, name), "{pattern} picks {name}");
        }
        for (pattern, name) in [
            ("user.created", "user.create"),
            ("user.created", "User.created"),
            ("platform.saml.*", "platform.saml.provider.enabled"),
            ("platform.saml.*", "platform.saml"),
            ("*", "user.created"),
            ("platform.**", "platforms.saml"),
            ("**.*.*", "a"),
            ("**.a", "a.b"),
        ] {
            assert!(!picks(pattern, name), "{pattern} does not pick {name}");
        }
    }

    #[test]
    fn an_invalid_filter_is_refused_by_name_and_reason() {
        // S10
        let refusal = |text: &str| Filter::parse(text).unwrap_err().to_string();
        assert_eq!(refusal(""), "filter '' is invalid: it is empty");
        assert_eq!(
            refusal("foo*"),
            "filter 'foo*' is invalid: '*' and '**' stand alone between dots, never beside other characters"
        );
        assert_eq!(
            refusal("a..b"),
            "filter 'a..b' is invalid: there is nothing before the first dot, after the last, or between two of them"
        );
        assert_eq!(
            refusal("a b"),
            "filter 'a b' is invalid: ' ' is not allowed, only ASCII letters, digits, '_' and dots between them"
        );
        assert_eq!(
            refusal("a.a.a.a.a.a.a.a.a.a.a"),
            "filter 'a.a.a.a.a.a.a.a.a.a.a' is invalid: it has more than 10 segments"
        );
        for text in [".", ".a", "a.", "***", "a.***", "*a", "**.b*", "a-b", "a/b", "é", "a\n", "\0", "a,b", "[a]", "?"]
        {
            assert_eq!(Filter::parse(text).unwrap_err().code(), ErrorCode::WebhookFilterInvalid, "{text:?}");
        }
        assert!(Filter::parse(&"a".repeat(MAX_BYTES + 1)).unwrap_err().to_string().len() < 200);
        assert!(!refusal("a\nb").contains('\n'));
    }

    #[test]
    fn a_name_has_no_stars_and_may_be_reserved() {
        assert_eq!(
            EventType::parse("user.*").unwrap_err().to_string(),
            "event type 'user.*' is invalid: only filters may contain '*'"
        );
        for text in ["", ".", "user.", "user..created", "user created", "user-created", "ünser"] {
            assert!(EventType::parse(text).is_err(), "{text:?}");
        }
        assert!(event_type("webhook.test").is_reserved());
        assert!(EventType::webhook_test().is_reserved());
        assert!(!event_type("webhooks.test").is_reserved());
    }

    #[test]
    fn where_a_last_star_takes_the_rest_it_is_written_out() {
        // S11
        let meant = |text: &str, star| filter(text).meant(star).map(|filter| filter.to_string());
        for (text, rest) in [
            ("platform.saml.*", "platform.saml.*.**"),
            ("*", "*.**"),
            ("*.created", "*.created"),
            ("platform.**", "platform.**"),
            ("platform.saml.*.**", "platform.saml.*.**"),
            ("user.created", "user.created"),
            ("a.a.a.a.a.a.a.a.a.*", "a.a.a.a.a.a.a.a.a.*"),
        ] {
            assert_eq!(meant(text, TrailingStar::One).unwrap(), text);
            assert_eq!(meant(text, TrailingStar::Rest).unwrap(), rest);
        }
        assert!(picks("platform.saml.*.**", "platform.saml.enabled"));
        assert!(picks("platform.saml.*.**", "platform.saml.provider.enabled"));
        assert!(!picks("platform.saml.*.**", "platform.saml"));
        let long = format!("{}.*", "a".repeat(MAX_BYTES - 2));
        // The `**` may take no segment, so a name may have more behind the `*`.
        for too_long in [long.as_str(), "a.**.a.a.a.a.a.a.a.*"] {
            assert_eq!(meant(too_long, TrailingStar::Rest).unwrap_err().code(), ErrorCode::WebhookFilterInvalid);
        }
    }

    #[test]
    fn several_filters_are_alternatives_and_none_picks_nothing() {
        // S5, S13
        let created = event_type("user.created");
        assert!(matches_any(&[filter("role.*"), filter("user.*"), filter("**")], &created));
        assert!(!matches_any(&[filter("role.*")], &created));
        assert!(!matches_any(&[], &created));
    }

    #[test]
    fn a_last_star_that_is_too_narrow_brings_a_hint() {
        // S11
        let types = [event_type("platform.saml.provider.enabled"), event_type("account.mfa.enrolled")];
        assert_eq!(narrow_star_hint(&filter("platform.saml.*"), &types), Some(filter("platform.saml.**")));
        assert_eq!(narrow_star_hint(&filter("*"), &types), Some(filter("**")));
        assert_eq!(narrow_star_hint(&filter("account.mfa.*"), &types), None);
        assert_eq!(narrow_star_hint(&filter("platform.saml.**"), &types), None);
        assert_eq!(narrow_star_hint(&filter("platform.saml"), &types), None);
    }

    #[test]
    fn serde_reads_and_writes_the_text_and_refuses_what_parse_refuses() {
        assert_eq!(serde_json::to_string(&filter("a.**")).unwrap(), r#""a.**""#);
        assert_eq!(serde_json::from_str::<Filter>(r#""\u0061.*""#).unwrap(), filter("a.*"));
        assert!(serde_json::from_str::<Filter>(r#""a.b*""#).unwrap_err().to_string().contains("filter 'a.b*'"));
        assert!(serde_json::from_str::<EventType>(r#""a.*""#).is_err());
    }

    fn joined(segment: &'static str, most: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(segment, 1..=most).prop_map(|segments| segments.join("."))
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_naive_one(pattern in joined("[ab]|\\*|\\*\\*", 6), name in joined("[ab]", MAX_SEGMENTS)) {
            let (left, right): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), name.split('.').collect());
            prop_assert_eq!(picks(&pattern, &name), naive(&left, &right));
        }

        #[test]
        fn what_parses_is_written_as_it_was_read(text in joined("[a-zA-Z0-9_]{1,8}|\\*|\\*\\*", MAX_SEGMENTS)) {
            let parsed = filter(&text);
            prop_assert_eq!(parsed.to_string(), text.as_str());
            prop_assert_eq!(parsed.is_exact(), EventType::parse(&text).is_ok());
        }

        #[test]
        fn every_name_is_a_filter_that_matches_itself_alone(one in joined("[ab_]{1,2}", 4), other in joined("[ab_]{1,2}", 4)) {
            prop_assert!(picks(&one, &one));
            prop_assert_eq!(picks(&one, &other), one == other);
        }

        #[test]
        fn any_text_is_read_or_refused_in_peace(text in "\\PC{0,40}|[.*a ]{0,140}") {
            if let Ok(parsed) = Filter::parse(&text) {
                parsed.matches(&event_type("a.a.a.a.a.a.a.a.a.a"));
                prop_assert_eq!(parsed.as_str(), text.as_str());
            }
            prop_assert!(EventType::parse(&text).is_err() || Filter::parse(&text).is_ok());
        }
    }

    #[test]
    fn the_work_is_bounded_by_the_product_of_the_lengths() {
        // The worst filter in stars against the longest name: a backtracking matcher needs millions of steps for each.
        let name = event_type("a.a.a.a.a.a.a.a.a.b");
        for _ in 0..10_000 {
            assert!(!filter("**.a.**.a.**.a.**.a.**.c").matches(&name));
        }
    }
}
