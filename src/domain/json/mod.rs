//! The one way we write a JSON text: as JavaScript's `JSON.stringify(JSON.parse(text))` would (A25).
//!
//! Receivers are shown to verify a signature over the body that they parsed and wrote again. So a body is brought to
//! the form that this round trip leaves alone, once, before it is signed: no white space, JavaScript's notation for
//! numbers, the fewest escapes, integer-like keys first and in order.
//!
//! - The output is a fixed point of that round trip whenever nothing is flagged.
//! - It is a fixed point of this module always; it means the same as the input, and where it cannot, it says so.
//! - Nothing recurses. An object is copied only to reorder it, so the work is at most the text times [`MAX_DEPTH`].
//!
//! What is flagged, and how it is written:
//!
//! | in the text | written | why |
//! | --- | --- | --- |
//! | an integer that JavaScript writes otherwise (past 2^53) | digit for digit | an altered account number is worse than a failed check |
//! | a fraction with more digits than a double keeps | digit for digit | the same |
//! | a key that occurs twice in an object | once: the last value, in the first place | what JavaScript reads, and most parsers |
//!
//! A fraction of 17 digits or fewer may have been printed from a double (`%.17g`), so it is written as that double is.
//! Numbers past the largest double are refused: JavaScript reads `Infinity` and writes `null`. A lone surrogate stays
//! the escape it was (`\ud800`), as JavaScript keeps it, though Rust's own strings cannot hold it.

mod token;

use std::fmt::Write;
use std::ops::Range;

use crate::error_code::ErrorCode;
use token::{write_number, write_string};

/// The deepest nesting of arrays and objects that is accepted. Our own parser stops at 127, and an envelope adds to it.
pub const MAX_DEPTH: usize = 100;
/// How many instabilities are listed. The rest of a hostile text is as unstable, and not worth the memory.
pub const MAX_LISTED: usize = 16;

/// A JSON text in the form that JavaScript would write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    text: String,
    instabilities: Vec<Instability>,
}

/// Something that does not survive being parsed and written by JavaScript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instability {
    /// Where it stands in the canonical text, as a JSON Pointer (RFC 6901). Made of keys, so it is part of the payload:
    /// for the publisher's eyes, not for logs.
    pub pointer: String,
    /// What it is.
    pub cause: Cause,
}

/// Why a text does not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A number with more digits than a double keeps; written digit for digit.
    Number,
    /// A key that was there before in the same object; only its last value is written.
    DuplicateKey,
}

/// The bytes are not a JSON text that we can pass on.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJson {
    /// The bytes are no UTF-8.
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Bytes before the first invalid one.
        at: usize,
    },
    /// The text is no JSON.
    #[error("not JSON")]
    Syntax(#[source] serde_json::Error),
    /// Arrays and objects are nested too deep.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A number is past the largest double.
    #[error("a number is past ±1.8e308, at byte {at}")]
    NumberTooLarge {
        /// Bytes before the number.
        at: usize,
    },
}

impl Canonical {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, for keeps.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Whether the text is a fixed point of `JSON.stringify(JSON.parse(text))` and says all that was said.
    pub fn is_stable(&self) -> bool {
        self.instabilities.is_empty()
    }

    /// What was flagged, in the order of the text; the first [`MAX_LISTED`].
    pub fn instabilities(&self) -> &[Instability] {
        &self.instabilities
    }
}

impl InvalidJson {
    /// Clients match on it.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidInput
    }
}

/// Writes a JSON text as JavaScript would, and flags what JavaScript would not leave alone.
///
/// # Errors
/// The bytes are no UTF-8 or no JSON, are nested too deep, or contain a number that no double can hold.
pub fn canonicalise(json: &[u8]) -> Result<Canonical, InvalidJson> {
    let json = std::str::from_utf8(json).map_err(|error| InvalidJson::NotUtf8 { at: error.valid_up_to() })?;
    serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(InvalidJson::Syntax)?;
    let mut writer = Writer { json, out: String::with_capacity(json.len()), open: Vec::new(), flags: Vec::new() };
    writer.write_all()?;
    Ok(Canonical { text: writer.out, instabilities: writer.flags })
}

/// Walks a text that is known to be JSON, so that every byte outside a string says by itself what to do.
struct Writer<'a> {
    json: &'a str,
    out: String,
    open: Vec<Container>,
    flags: Vec<Instability>,
}

/// An array or object whose end has not come yet.
enum Container {
    /// Commas so far.
    Array(usize),
    Object {
        /// Where in the output the first member begins.
        start: usize,
        /// The last one may still be growing.
        members: Vec<Member>,
        /// Whether the colon has come and the comma has not.
        in_value: bool,
    },
}

/// A key and its value, as places in the output.
struct Member {
    place: Place,
    /// With its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// JavaScript's order of keys: array indices by size, then all others as they came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Index(u32),
    Named(usize),
}

impl Writer<'_> {
    fn write_all(&mut self) -> Result<(), InvalidJson> {
        let bytes = self.json.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at = match byte {
                b' ' | b'\t' | b'\n' | b'\r' => at + 1,
                b'{' | b'[' => self.open(byte).map(|()| at + 1)?,
                b'}' | b']' => self.close(byte, at),
                b',' => self.comma(at),
                b':' => self.colon(at),
                b'"' => self.string(at),
                _ => self.scalar(at)?,
            };
        }
        Ok(())
    }

    fn open(&mut self, bracket: u8) -> Result<(), InvalidJson> {
        if self.open.len() == MAX_DEPTH {
            return Err(InvalidJson::TooDeep);
        }
        self.out.push(char::from(bracket));
        self.open.push(match bracket {
            b'[' => Container::Array(0),
            _ => Container::Object { start: self.out.len(), members: Vec::new(), in_value: false },
        });
        Ok(())
    }

    fn close(&mut self, bracket: u8, at: usize) -> usize {
        self.end_member();
        if let Some(Container::Object { start, members, .. }) = self.open.pop() {
            self.settle(start, members);
        }
        self.out.push(char::from(bracket));
        at + 1
    }

    fn comma(&mut self, at: usize) -> usize {
        self.end_member();
        if let Some(Container::Array(index)) = self.open.last_mut() {
            *index += 1;
        }
        self.out.push(',');
        at + 1
    }

    fn colon(&mut self, at: usize) -> usize {
        self.out.push(':');
        if let Some(Container::Object { members, in_value, .. }) = self.open.last_mut()
            && let Some(member) = members.last_mut()
        {
            member.value = self.out.len()..self.out.len();
            *in_value = true;
        }
        at + 1
    }

    fn end_member(&mut self) {
        if let Some(Container::Object { members, in_value, .. }) = self.open.last_mut()
            && let Some(member) = members.last_mut()
        {
            member.value.end = self.out.len();
            *in_value = false;
        }
    }

    /// A key or a value; `at` is its opening quote.
    fn string(&mut self, at: usize) -> usize {
        let begin = self.out.len();
        let behind = write_string(&mut self.out, self.json, at);
        if let Some(Container::Object { members, in_value: false, .. }) = self.open.last_mut() {
            let key = begin..self.out.len();
            let place = match array_index(&self.out[key.start + 1..key.end - 1]) {
                Some(index) => Place::Index(index),
                None => Place::Named(members.len()),
            };
            members.push(Member { place, value: key.end..key.end, key });
        }
        behind
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self, at: usize) -> Result<usize, InvalidJson> {
        let rest = &self.json[at..];
        let length = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
        let token = &rest[..length];
        if token.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.out.push_str(token);
        } else if !write_number(&mut self.out, token).ok_or(InvalidJson::NumberTooLarge { at })? {
            self.flag(Cause::Number, None);
        }
        Ok(at + length)
    }

    /// Brings the members of an object, whose last has just ended, into JavaScript's order, each key once.
    fn settle(&mut self, start: usize, mut members: Vec<Member>) {
        let written = members.len();
        let repeated = self.drop_repeated(&mut members);
        for key in &repeated {
            self.flag(Cause::DuplicateKey, Some(key));
        }
        if members.len() == written && members.is_sorted_by_key(|member| member.place) {
            return;
        }
        members.sort_by_key(|member| member.place);
        let mut settled = String::with_capacity(self.out.len() - start);
        for member in &members {
            if !settled.is_empty() {
                settled.push(',');
            }
            settled.push_str(&self.out[member.key.clone()]);
            settled.push(':');
            settled.push_str(&self.out[member.value.clone()]);
        }
        self.out.truncate(start);
        self.out.push_str(&settled);
    }

    /// Keeps the first of equal keys, with the value of the last; the answer is the keys that were there more than
    /// once, in order. Equal keys are equal texts here, because their escapes are settled.
    fn drop_repeated(&self, members: &mut Vec<Member>) -> Vec<Range<usize>> {
        let key = |member: &usize| &self.out[members[*member].key.clone()];
        let mut by_key: Vec<usize> = (0..members.len()).collect();
        by_key.sort_by_key(key);
        let mut dropped = vec![false; members.len()];
        let mut repeated = Vec::new();
        for equal in by_key.chunk_by(|one, other| key(one) == key(other)) {
            if let [first, later @ .., last] = equal {
                later.iter().chain([last]).for_each(|&member| dropped[member] = true);
                repeated.push((*first, *last));
            }
        }
        repeated.sort_unstable();
        for &(first, last) in &repeated {
            members[first].value = members[last].value.clone();
        }
        let keys = repeated.iter().map(|&(first, _)| members[first].key.clone()).collect();
        let mut dropped = dropped.into_iter();
        members.retain(|_| !dropped.next().unwrap_or(false));
        keys
    }

    /// Flags the value being written or, of the object that has just ended, a key.
    fn flag(&mut self, cause: Cause, key: Option<&Range<usize>>) {
        if self.flags.len() == MAX_LISTED {
            return;
        }
        let mut pointer = String::new();
        for container in &self.open {
            match container {
                Container::Array(index) => write!(pointer, "/{index}").expect("a string takes whatever is written"),
                Container::Object { members, .. } => {
                    if let Some(member) = members.last() {
                        push_pointer(&mut pointer, &self.out[member.key.clone()]);
                    }
                }
            }
        }
        if let Some(key) = key {
            push_pointer(&mut pointer, &self.out[key.clone()]);
        }
        self.flags.push(Instability { pointer, cause });
    }
}

/// Adds a step to a JSON Pointer; `key` has its quotes. Escapes of JSON are kept, so that any key can be shown.
fn push_pointer(pointer: &mut String, key: &str) {
    pointer.push('/');
    for c in key[1..key.len() - 1].chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// The number that JavaScript takes the key for, if it is one that an array could be indexed with.
fn array_index(key: &str) -> Option<u32> {
    let plain = key == "0" || (!key.starts_with('0') && key.bytes().all(|byte| byte.is_ascii_digit()));
    key.parse().ok().filter(|&index| plain && index < u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn written(json: &str) -> String {
        canonicalise(json.as_bytes()).unwrap().into_text()
    }

    fn flags(json: &str) -> Vec<(String, Cause)> {
        let canonical = canonicalise(json.as_bytes()).unwrap();
        canonical.instabilities().iter().map(|flag| (flag.pointer.clone(), flag.cause)).collect()
    }

    #[test]
    fn white_space_and_needless_escapes_go_and_everything_else_stays() {
        // A25
        assert_eq!(written(" { \"b\" : [ 1 , true , null ] ,\r\n\t\"a\" : { } } "), r#"{"b":[1,true,null],"a":{}}"#);
        assert_eq!(written(r#""\u00e9\/<>&\u2028\u007f""#), "\"é/<>&\u{2028}\u{7f}\"");
        assert_eq!(
            written(r#""\u0000\u001F\u0008\u0009\u000a\u000C\u000d\u0022\u005C""#),
            r#""\u0000\u001f\b\t\n\f\r\"\\""#
        );
        assert_eq!(written(r#""\b\t\n\f\r\"\\""#), r#""\b\t\n\f\r\"\\""#);
        assert_eq!(written(r#""a,b]c}d: e""#), r#""a,b]c}d: e""#);
        for scalar in ["null", "true", "false", "0", "\"\"", "[]", "{}"] {
            assert_eq!(written(scalar), scalar);
        }
    }

    #[test]
    fn integer_like_keys_come_first_in_order_and_the_others_as_they_came() {
        // A25
        assert_eq!(
            written(r#"{"b":1,"10":2,"01":3,"9":4,"a":5,"-1":6,"4294967295":7,"4294967294":8,"":9,"+1":10,"0":11}"#),
            r#"{"0":11,"9":4,"10":2,"4294967294":8,"b":1,"01":3,"a":5,"-1":6,"4294967295":7,"":9,"+1":10}"#
        );
        assert_eq!(written(r#"[{"a":{"2":{"y":1,"0":2},"1":[]}}]"#), r#"[{"a":{"1":[],"2":{"0":2,"y":1}}}]"#);
        assert_eq!(written(r#"{"__proto__":{"a":1},"\u0031":2}"#), r#"{"1":2,"__proto__":{"a":1}}"#);
    }

    #[test]
    fn of_equal_keys_the_last_value_stands_in_the_first_place_and_the_key_is_flagged() {
        // A25
        assert_eq!(written(r#"{"a":1,"b":2,"\u0061":3,"c":4,"a":5}"#), r#"{"a":5,"b":2,"c":4}"#);
        assert_eq!(
            flags(r#"[0,{"x":{"b":1,"a":1,"a":2,"b":2,"a":3}}]"#),
            [("/1/x/b".to_owned(), Cause::DuplicateKey), ("/1/x/a".to_owned(), Cause::DuplicateKey)]
        );
        assert_eq!(written(r#"{"a":{"b":1,"b":{"1":1,"0":2}},"a":{"c":1,"c":2}}"#), r#"{"a":{"c":2}}"#);
    }

    #[test]
    fn what_is_no_json_is_refused_and_says_why() {
        let refusal = |json: &[u8]| canonicalise(json).unwrap_err();
        assert!(matches!(refusal(b"\"ab\xff\""), InvalidJson::NotUtf8 { at: 3 }));
        for json in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{1:2}",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "NaN",
            "Infinity",
            "nul",
        ] {
            assert!(matches!(refusal(json.as_bytes()), InvalidJson::Syntax(_)), "{json}");
        }
        for json in ["'a'", "\"a", "\"\t\"", "\"\\x\"", "\"\\u12g4\"", "1 2", "[1]]", "\u{feff}1", "// a\n1", "\u{a0}1"]
        {
            assert!(matches!(refusal(json.as_bytes()), InvalidJson::Syntax(_)), "{json}");
        }
        assert_eq!(refusal(b"1 2").code(), ErrorCode::InvalidInput);
    }

    #[test]
    fn nesting_is_bounded_by_the_limit_and_not_by_the_stack() {
        let nested = |depth: usize| [vec!["[\n"; depth].concat(), vec!["]"; depth].concat()].concat();
        assert_eq!(written(&nested(MAX_DEPTH)).len(), 2 * MAX_DEPTH);
        assert!(matches!(canonicalise(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err(), InvalidJson::TooDeep));
        assert!(matches!(canonicalise(nested(1_000_000).as_bytes()).unwrap_err(), InvalidJson::TooDeep));
        assert!(matches!(canonicalise("[".repeat(1_000_000).as_bytes()).unwrap_err(), InvalidJson::Syntax(_)));
    }

    #[test]
    fn a_hostile_text_is_flagged_in_bounded_space() {
        let same = format!("{{{}}}", vec![r#""a":9007199254740993"#; 20_000].join(","));
        assert_eq!(written(&same), r#"{"a":9007199254740993}"#);
        assert_eq!(flags(&same).len(), MAX_LISTED);
        let keys: Vec<_> = (0..20_000).rev().map(|key| format!(r#""{key}":0,"{key}":1"#)).collect();
        let canonical = canonicalise(format!("{{{}}}", keys.join(",")).as_bytes()).unwrap();
        assert!(canonical.text().starts_with(r#"{"0":1,"1":1,"2":1,"#));
        assert_eq!(canonical.instabilities().len(), MAX_LISTED);
    }

    /// JSON texts with odd keys, numbers, escapes and white space.
    fn json_text() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
            any::<f64>()
                .prop_filter("JSON has no names for the others", |double| double.is_finite())
                .prop_map(|double| double.to_string()),
            any::<i64>().prop_map(|integer| integer.to_string()),
        ];
        let string = r#""([ -!#-\[\]-~é😀\u{2028}]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00){0,6}""#;
        let key = prop_oneof![r#""(0|[1-9][0-9]?|[ab]|\\u003[0-9]|__proto__|4294967[0-9]{3})""#, string];
        let leaf = prop_oneof![number, string, "null|true|false", "[ \t\r\n]{0,2}0[ \t\r\n]{0,2}"];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(" ,"))),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| {
                    let members: Vec<_> = members.into_iter().map(|(key, value)| format!("{key} : {value}")).collect();
                    format!("{{ {} }}", members.join(","))
                }),
            ]
        })
    }

    /// Whether two values are the same to a reader of doubles that ignores the order of keys.
    fn same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
            }
            _ => one == other,
        }
    }

    proptest! {
        #[test]
        fn the_output_means_what_the_input_meant_and_is_its_own_canonical_form(json in json_text()) {
            let first = canonicalise(json.as_bytes()).unwrap();
            let second = canonicalise(first.text().as_bytes()).unwrap();
            prop_assert_eq!(first.text(), second.text());
            prop_assert!(!first.is_stable() || second.is_stable());
            let (before, after) = (serde_json::from_str(&json).unwrap(), serde_json::from_str(first.text()).unwrap());
            prop_assert!(same(&before, &after), "{json} became {}", first.text());
        }

        #[test]
        fn any_bytes_are_read_or_refused_in_peace(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\[\\]{}:,\"\\\\u0-9eE.+\\- ]{0,30}".prop_map(String::into_bytes),
        ]) {
            let valid = std::str::from_utf8(&bytes).is_ok_and(|json| serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok());
            prop_assert!(valid || canonicalise(&bytes).is_err());
        }
    }
}
