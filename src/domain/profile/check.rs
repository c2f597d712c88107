//! What makes a profile fit for use, beyond its form.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::definition::Problem;
use super::{
    Algorithm, Breaker, Classes, Envelope, Field, FieldValue, Header, HeaderValue, Jitter, KeyForm, MAX_DISTINCT,
    Piece, Place, Profile, Retry, RetryAfter, Signature, SignedContent, Success, Template, built_in,
};
use crate::domain::filter::TrailingStar;

/// Headers that belong to the connection or to this program (in lower case).
const RESERVED_HEADERS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
const MAX_NAME_CHARS: usize = 64;
const MAX_DESCRIPTION_CHARS: usize = 200;
const MAX_LABEL_CHARS: usize = 40;
/// Of a header's name, and of a field's.
const MAX_KEY_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 1_024;
const MAX_HEADERS: usize = 32;
const MAX_SIGNATURES: usize = 4;
/// Of a body, those of nested objects included.
const MAX_FIELDS: usize = 64;
const MAX_NESTING: usize = 8;
const MAX_ATTEMPTS: u32 = 50;
const TIMEOUT_MS: RangeInclusive<u64> = 100..=120_000;
const DELAY_MS: RangeInclusive<u64> = 100..=7 * DAY_MS;
const WINDOW_MS: RangeInclusive<u64> = 1_000..=30 * DAY_MS;
const FACTOR: RangeInclusive<u64> = 1..=100;
const OVERLAP_S: RangeInclusive<u64> = 0..=30 * 86_400;
const RESTORE_S: RangeInclusive<u64> = 0..=30 * 86_400;
const STATUS: RangeInclusive<u16> = 100..=599;
const PERCENT: RangeInclusive<u8> = 1..=100;
const CUSTOM_HEADERS: RangeInclusive<u32> = 0..=20;
/// Failures that a circuit breaker waits for, and probes.
const RUN: RangeInclusive<u32> = 1..=10_000;
const DAY_MS: u64 = 86_400_000;

/// Everything that is wrong with a profile.
pub(super) fn check(profile: &Profile) -> Vec<Problem> {
    let mut problems = Problems(vec![]);
    problems.name(&profile.name);
    problems.text("description", &profile.description, MAX_DESCRIPTION_CHARS);
    problems.envelope(&profile.envelope);
    problems.signatures(profile);
    problems.headers(profile);
    problems.success(&profile.success);
    problems.classes(&profile.classes);
    if let Some(RetryAfter { cap_ms }) = profile.retry_after {
        problems.within("retry_after.cap_ms", cap_ms, WINDOW_MS);
    }
    if let Some(breaker) = &profile.breaker {
        problems.breaker(breaker);
    }
    problems.retry(&profile.retry);
    problems.jitter(profile);
    problems.within("timeout_ms", profile.timeout_ms, TIMEOUT_MS);
    problems.within("test_timeout_ms", profile.test_timeout_ms, TIMEOUT_MS);
    problems.rotation(profile);
    problems.beginning(profile);
    for (key, label) in profile.labels.all() {
        problems.text(&format!("labels.{key}"), label, MAX_LABEL_CHARS);
    }
    problems.within("custom_headers.max", profile.custom_headers.max, CUSTOM_HEADERS);
    let different: HashSet<_> = profile.notify.iter().collect();
    problems.expect(different.len() == profile.notify.len(), "notify", "each word stands there once");
    problems.0
}

struct Problems(Vec<Problem>);

impl Problems {
    fn tell(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.0.push(Problem::of(key, reason));
    }

    fn expect(&mut self, holds: bool, key: &str, reason: &str) {
        if !holds {
            self.tell(key, reason);
        }
    }

    fn within<T: PartialOrd + std::fmt::Display>(&mut self, key: impl Into<String>, value: T, of: RangeInclusive<T>) {
        if !of.contains(&value) {
            self.tell(key, format!("{value} is not within {} and {}", of.start(), of.end()));
        }
    }

    /// Not empty, not long, and without control characters.
    fn text(&mut self, key: &str, text: &str, max_chars: usize) {
        if text.is_empty() || text.chars().count() > max_chars {
            self.tell(key, format!("it must have 1 to {max_chars} characters"));
        }
        self.expect(!text.chars().any(char::is_control), key, "it may not hold control characters");
    }

    fn classes(&mut self, classes: &Classes) {
        for (key, statuses) in [("soft", &classes.soft), ("gone", &classes.gone)] {
            for (index, status) in statuses.iter().enumerate() {
                self.within(format!("classes.{key}[{index}]"), *status, STATUS);
            }
        }
        let both = classes.soft.iter().any(|status| classes.gone.contains(status));
        self.expect(!both, "classes.gone", "a status is soft or gone, not both");
        self.within("classes.soft_pause_ms", classes.soft_pause_ms, 0..=DAY_MS);
    }

    fn breaker(&mut self, breaker: &Breaker) {
        self.within("breaker.failures", breaker.failures, RUN);
        self.within("breaker.deliveries", breaker.deliveries, 1..=MAX_DISTINCT as u32);
        self.within("breaker.soft_failures", breaker.soft_failures, RUN);
        self.within("breaker.soft_over_ms", breaker.soft_over_ms, 0..=30 * DAY_MS);
        if let Some(probe) = &breaker.probe {
            self.within("breaker.probe.base_ms", probe.base_ms, WINDOW_MS);
            self.within("breaker.probe.factor", probe.factor, FACTOR);
            self.within("breaker.probe.cap_ms", probe.cap_ms, WINDOW_MS);
            self.within("breaker.probe.attempts", probe.attempts, RUN);
        }
    }

    fn name(&mut self, name: &str) {
        let (stem, version) = name.rsplit_once("-v").unwrap_or(("", ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let counts = !version.is_empty() && version.bytes().all(|c| c.is_ascii_digit()) && !version.starts_with('0');
        let well_formed = !stem.is_empty() && stem.chars().all(plain) && counts && name.len() <= MAX_NAME_CHARS;
        if !well_formed {
            let form = "lower-case letters, digits and hyphens, and a version behind -v, as in acme-v1";
            self.tell("name", format!("it must have at most {MAX_NAME_CHARS} characters: {form}"));
        }
        if built_in().iter().any(|known| known.name == name) {
            self.tell("name", format!("'{name}' is a profile of this program"));
        }
    }

    fn envelope(&mut self, envelope: &Envelope) {
        let Envelope::Fields(fields) = envelope else { return };
        let mut count = 0;
        let data = self.fields("envelope", fields, &mut count, 1);
        if data != 1 {
            let reason = format!("the message's data must stand in it once, as the value \"data\", not {data} times");
            self.tell("envelope", reason);
        }
        if count > MAX_FIELDS {
            self.tell("envelope", format!("it has {count} fields; at most {MAX_FIELDS} are allowed"));
        }
    }

    /// Counts the fields, and returns how often the data stands in them.
    fn fields(&mut self, key: &str, fields: &[Field], count: &mut usize, depth: usize) -> usize {
        let mut data = 0;
        let mut seen = HashSet::new();
        *count += fields.len();
        for (index, field) in fields.iter().enumerate() {
            let key = format!("{key}[{index}]");
            self.field_name(&format!("{key}.name"), &field.name);
            if !seen.insert(&field.name) {
                self.tell(format!("{key}.name"), format!("'{}' stands there twice", field.name));
            }
            match &field.value {
                FieldValue::Data => data += 1,
                FieldValue::Text(text) => {
                    let fits = text.chars().count() <= MAX_VALUE_CHARS && !text.chars().any(char::is_control);
                    let reason =
                        format!("it may have {MAX_VALUE_CHARS} characters, and no control characters among them");
                    self.expect(fits, &format!("{key}.value.text"), &reason);
                }
                FieldValue::Object(_) if depth >= MAX_NESTING => {
                    self.tell(format!("{key}.value.object"), format!("objects nest {MAX_NESTING} deep at most"));
                }
                FieldValue::Object(inner) => {
                    data += self.fields(&format!("{key}.value.object"), inner, count, depth + 1)
                }
                FieldValue::MessageId
                | FieldValue::Type
                | FieldValue::OccurredAtSeconds
                | FieldValue::OccurredAtMs
                | FieldValue::OccurredAtUnix
                | FieldValue::OccurredAtUnixMs
                | FieldValue::Tenant
                | FieldValue::Json(_) => {}
            }
        }
        data
    }

    fn field_name(&mut self, key: &str, name: &str) {
        self.text(key, name, MAX_KEY_CHARS);
        let is_number = !name.is_empty() && name.bytes().all(|c| c.is_ascii_digit());
        self.expect(!is_number, key, "it may not be a number: JavaScript would put it before all others");
    }

    fn signatures(&mut self, profile: &Profile) {
        let count = profile.signatures.len();
        if !(1..=MAX_SIGNATURES).contains(&count) {
            self.tell("signatures", format!("there must be 1 to {MAX_SIGNATURES}"));
        }
        for (index, signature) in profile.signatures.iter().enumerate() {
            self.signature(&format!("signatures[{index}]"), signature, profile);
        }
    }

    fn signature(&mut self, key: &str, signature: &Signature, profile: &Profile) {
        let Signature { header: _, value, prefix, separator, encoding: _, content, algorithm, key: form, overlap } =
            signature;
        let printable = |text: &str| text.chars().count() <= MAX_KEY_CHARS && text.bytes().all(is_printable);
        let reason = format!("it may have {MAX_KEY_CHARS} characters, of visible ASCII and spaces");
        self.expect(printable(prefix), &format!("{key}.prefix"), &reason);
        self.expect(printable(separator), &format!("{key}.separator"), &reason);
        self.expect(!separator.is_empty(), &format!("{key}.separator"), "it may not be empty");
        self.expect(
            !prefix.starts_with(' ') || value.pieces().first() != Some(&Piece::Place(Place::Signatures)),
            &format!("{key}.prefix"),
            "a header's value cannot begin with a space",
        );
        let ambiguous = *overlap && !separator.is_empty() && prefix.contains(separator.as_str());
        self.expect(!ambiguous, &format!("{key}.prefix"), "the separator may not stand in it");
        self.template(&format!("{key}.value"), value);
        let fits = (*algorithm == Algorithm::Ed25519) == (*form == KeyForm::Whsk);
        self.expect(fits, &format!("{key}.key"), "whsk goes with the algorithm ed25519, and no other key does");
        let reason = "all signatures of a profile have one algorithm, since a webhook has one secret";
        self.expect(*algorithm == profile.algorithm(), &format!("{key}.algorithm"), reason);
        let covered = match content {
            SignedContent::Body => &[][..],
            SignedContent::TimestampBody => &[Place::AttemptedAt],
            SignedContent::IdTimestampBody => &[Place::MessageId, Place::AttemptedAt],
        };
        for place in covered.iter().filter(|place| !value.has(**place) && profile.header_of(**place).is_none()) {
            let name = place.name();
            let reason = format!("it must hold {{{name}}}, or a header must tell it: the signature covers it");
            self.tell(format!("{key}.value"), reason);
        }
    }

    fn template(&mut self, key: &str, template: &Template) {
        let text = template.to_string();
        let fits = text.chars().count() <= MAX_VALUE_CHARS && text.bytes().all(is_printable);
        let reason = format!("it may have {MAX_VALUE_CHARS} characters, of visible ASCII and spaces");
        self.expect(fits, key, &reason);
        self.expect(text.trim() == text, key, "it may not begin or end with a space");
    }

    fn headers(&mut self, profile: &Profile) {
        if profile.headers.len() > MAX_HEADERS {
            self.tell("headers", format!("there may be {MAX_HEADERS} at most"));
        }
        let mut seen = HashSet::new();
        let signatures = profile.signatures.iter().enumerate();
        let signatures =
            signatures.map(|(index, signature)| (format!("signatures[{index}].header"), &signature.header));
        let headers = profile.headers.iter().enumerate();
        let headers = headers.map(|(index, header)| (format!("headers[{index}].name"), &header.name));
        for (key, name) in signatures.chain(headers) {
            self.header_name(&key, name);
            if !seen.insert(name.to_ascii_lowercase()) {
                self.tell(key, format!("'{name}' stands there twice (case does not count)"));
            }
        }
        for (index, Header { name: _, value }) in profile.headers.iter().enumerate() {
            match value {
                HeaderValue::Text(text) => self.header_text(&format!("headers[{index}].value.text"), text),
                HeaderValue::MessageId | HeaderValue::Type | HeaderValue::AttemptedAt | HeaderValue::Sequence => {}
            }
        }
    }

    fn header_name(&mut self, key: &str, name: &str) {
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        if name.is_empty() || name.len() > MAX_KEY_CHARS || !name.bytes().all(is_token) {
            let allowed = "ASCII letters, digits and !#$%&'*+-.^_`|~";
            self.tell(key, format!("a header's name has 1 to {MAX_KEY_CHARS} characters: {allowed}"));
        }
        if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            self.tell(key, format!("'{name}' is reserved: this program or the connection sets it"));
        }
    }

    fn header_text(&mut self, key: &str, text: &str) {
        let fits = !text.is_empty() && text.len() <= MAX_VALUE_CHARS && text.bytes().all(is_printable);
        let reason = format!("a header's value has 1 to {MAX_VALUE_CHARS} characters of visible ASCII and spaces");
        self.expect(fits, key, &reason);
        self.expect(text.trim() == text, key, "it may not begin or end with a space");
    }

    fn success(&mut self, success: &Success) {
        let Success::Exactly(statuses) = success else { return };
        self.expect(!statuses.is_empty(), "success.exactly", "it must name at least one status");
        for (index, status) in statuses.iter().enumerate() {
            self.within(format!("success.exactly[{index}]"), *status, STATUS);
        }
    }

    fn retry(&mut self, retry: &Retry) {
        match retry {
            Retry::List { delays_ms } => {
                let most = MAX_ATTEMPTS as usize - 1;
                if !(1..=most).contains(&delays_ms.len()) {
                    self.tell("retry.list.delays_ms", format!("it must have 1 to {most} delays"));
                }
                for (index, delay) in delays_ms.iter().enumerate() {
                    self.within(format!("retry.list.delays_ms[{index}]"), *delay, DELAY_MS);
                }
            }
            Retry::Exponential { base_ms, factor, cap_ms, attempts, window_ms } => {
                self.within("retry.exponential.base_ms", *base_ms, DELAY_MS);
                self.within("retry.exponential.factor", *factor, FACTOR);
                self.within("retry.exponential.cap_ms", *cap_ms, DELAY_MS);
                self.expect(cap_ms >= base_ms, "retry.exponential.cap_ms", "it may not be less than base_ms");
                self.within("retry.exponential.attempts", *attempts, 2..=MAX_ATTEMPTS);
                self.within("retry.exponential.window_ms", *window_ms, WINDOW_MS);
                self.expect(window_ms >= base_ms, "retry.exponential.window_ms", "it may not be less than base_ms");
            }
        }
    }

    fn jitter(&mut self, profile: &Profile) {
        match (profile.jitter, &profile.retry) {
            (Jitter::Proportional(percent), _) => self.within("jitter.proportional", percent, PERCENT),
            (Jitter::Decorrelated, Retry::List { .. }) => {
                self.tell("jitter", "decorrelated goes with retry.exponential: its delays grow from the one before");
            }
            (Jitter::None | Jitter::Full | Jitter::Equal | Jitter::Additive | Jitter::Decorrelated, _) => {}
        }
    }

    fn beginning(&mut self, profile: &Profile) {
        let reason = "with require_test a webhook begins disabled: it must be false";
        self.expect(!(profile.require_test && profile.enabled_default), "enabled_default", reason);
        let reason = "filters without patterns have no '*': it must be \"one\" or absent";
        let means = profile.filters.globs || profile.filters.trailing_star == TrailingStar::One;
        self.expect(means, "filters.trailing_star", reason);
    }

    fn rotation(&mut self, profile: &Profile) {
        let (max_s, default_s) = (profile.rotation_overlap_max_s, profile.rotation_overlap_default_s);
        self.within("rotation_overlap_max_s", max_s, OVERLAP_S);
        self.expect(default_s <= max_s, "rotation_overlap_default_s", "it may not be more than rotation_overlap_max_s");
        self.within("restore_window_s", profile.restore_window_s, RESTORE_S);
        let carries = profile.signatures.iter().any(|signature| signature.overlap);
        let reason = "no signature has overlap, so an old secret could not go on signing: it must be 0";
        self.expect(max_s == 0 || carries || profile.signatures.is_empty(), "rotation_overlap_max_s", reason);
    }
}

fn is_printable(c: u8) -> bool {
    (b' '..=b'~').contains(&c)
}
