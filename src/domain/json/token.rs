//! Strings and numbers as JavaScript writes them, from their JSON text.

use std::fmt::Write;

/// Writes the string whose opening quote is at `at` with the fewest escapes; the answer is the place behind its end.
pub(super) fn write_string(out: &mut String, json: &str, at: usize) -> usize {
    out.push('"');
    let mut at = at + 1;
    loop {
        let rest = &json[at..];
        let plain = rest.find(['"', '\\']).expect("a valid JSON string ends");
        out.push_str(&rest[..plain]);
        at += plain;
        if json.as_bytes()[at] == b'"' {
            out.push('"');
            return at + 1;
        }
        at = write_escape(out, json, at);
    }
}

/// Writes what the escape at `at` stands for; the answer is the place behind it.
fn write_escape(out: &mut String, json: &str, at: usize) -> usize {
    let letter = json.as_bytes()[at + 1];
    match letter {
        b'/' => out.push('/'),
        b'u' => return write_code_point(out, json, at),
        _ => {
            out.push('\\');
            out.push(char::from(letter));
        }
    }
    at + 2
}

/// The same for `\uXXXX`, which may be the first half of a pair.
fn write_code_point(out: &mut String, json: &str, at: usize) -> usize {
    let unit = code_unit(json, at).expect("a valid JSON string has four digits behind \\u");
    let behind = at + 6;
    if let Some(low) = code_unit(json, behind)
        && let Some(Ok(pair)) = (0xd800..0xdc00).contains(&unit).then(|| String::from_utf16(&[unit, low]))
    {
        out.push_str(&pair);
        return behind + 6;
    }
    match char::from_u32(u32::from(unit)) {
        Some('"') => out.push_str("\\\""),
        Some('\\') => out.push_str("\\\\"),
        Some('\u{8}') => out.push_str("\\b"),
        Some('\u{c}') => out.push_str("\\f"),
        Some('\n') => out.push_str("\\n"),
        Some('\r') => out.push_str("\\r"),
        Some('\t') => out.push_str("\\t"),
        Some(c) if c >= ' ' => out.push(c),
        Some(_) | None => write!(out, "\\u{unit:04x}").expect("a string takes whatever is written"),
    }
    behind
}

/// The sixteen bits of the `\uXXXX` at `at`, if there is one.
fn code_unit(json: &str, at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    u16::from_str_radix(digits, 16).ok()
}

/// Writes a number as JavaScript does, or digit for digit where that would lose some. `Some(false)` means that
/// JavaScript would not leave it alone, `None` that no double can hold it.
pub(super) fn write_number(out: &mut String, token: &str) -> Option<bool> {
    let double: f64 = token.parse().expect("a JSON number is a Rust number");
    if double.is_infinite() {
        return None;
    }
    let mut buffer = ryu_js::Buffer::new();
    let script = buffer.format_finite(double);
    let integer = token.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let keeps = if integer { script == token || token == "-0" } else { is_kept(token, double, script) };
    out.push_str(if keeps { script } else { token });
    Some(keeps)
}

/// Whether JavaScript's way of writing a double loses nothing of the fraction that it was read from.
fn is_kept(token: &str, double: f64, script: &str) -> bool {
    let number = Decimal::of(token);
    if number.digits.is_empty() {
        return true;
    }
    if double == 0.0 {
        return false;
    }
    number == Decimal::of(script) || (number.digits.len() <= 17 && number.exponent.is_some_and(|power| power < 0))
}

/// A decimal number without its sign: 0.012 is the digits `12` at exponent -3. None of the digits at the ends is a zero.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: Vec<u8>,
    /// Nothing for a power that is no number of ours: then the number is zero or past every double.
    exponent: Option<i64>,
}

impl Decimal {
    fn of(token: &str) -> Self {
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = || whole.bytes().chain(fraction.bytes()).filter(u8::is_ascii_digit);
        let trailing = all().rev().take_while(|&digit| digit == b'0').count();
        let mut digits: Vec<u8> = all().skip_while(|&digit| digit == b'0').collect();
        digits.truncate(digits.len().saturating_sub(trailing));
        let shift = trailing as i64 - fraction.len() as i64;
        Self { digits, exponent: exponent.parse::<i64>().ok().and_then(|power| power.checked_add(shift)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, canonicalise};

    fn written(json: &str) -> String {
        canonicalise(json.as_bytes()).unwrap().into_text()
    }

    fn flags(json: &str) -> Vec<(String, Cause)> {
        let canonical = canonicalise(json.as_bytes()).unwrap();
        canonical.instabilities().iter().map(|flag| (flag.pointer.clone(), flag.cause)).collect()
    }

    #[test]
    fn surrogates_become_a_character_in_pairs_and_stay_escapes_alone() {
        // A25
        assert_eq!(written(r#""\uD83D\ude00""#), "\"😀\"");
        assert_eq!(written(r#""\uD800""#), r#""\ud800""#);
        assert_eq!(written(r#""\uDE00\uD83D""#), r#""\ude00\ud83d""#);
        assert_eq!(written(r#""\ud83d\uD83D\uDE00\ud83dé""#), "\"\\ud83d😀\\ud83dé\"");
        assert_eq!(written(r#""\ud83d\\ude00""#), r#""\ud83d\\ude00""#);
    }

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        // A25
        for (json, script) in [
            ("1.0", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e99999999999999999999", "0"),
            ("1e21", "1e+21"),
            ("1E20", "100000000000000000000"),
            ("1e-7", "1e-7"),
            ("0.000001", "0.000001"),
            ("12.50", "12.5"),
            ("-1.5E+3", "-1500"),
            ("0.10000000000000001", "0.1"),
            ("5e-324", "5e-324"),
            ("9007199254740992", "9007199254740992"),
            ("12345678901234567000", "12345678901234567000"),
        ] {
            let canonical = canonicalise(json.as_bytes()).unwrap();
            assert_eq!((canonical.text(), canonical.is_stable()), (script, true), "{json}");
        }
    }

    #[test]
    fn a_number_that_a_double_cannot_keep_stays_digit_for_digit_and_is_flagged() {
        // A25
        for json in [
            "9007199254740993",
            "-9007199254740993",
            "12345678901234567890",
            "1000000000000000000000",
            "9007199254740993.0",
            "0.1000000000000000055",
            "1e-400",
        ] {
            assert_eq!(written(json), json);
            assert_eq!(flags(json), [(String::new(), Cause::Number)], "{json}");
        }
        assert_eq!(flags(r#"{"a":[0,{"b/~":9007199254740993}]}"#), [("/a/1/b~1~0".to_owned(), Cause::Number)]);
    }

    #[test]
    fn a_number_past_every_double_is_refused() {
        let error = canonicalise(br#"{"a": -1e999}"#).unwrap_err();
        assert_eq!(error.to_string(), "a number is past ±1.8e308, at byte 6");
        assert!(canonicalise("9".repeat(400).as_bytes()).is_err());
        assert!(canonicalise(b"1.7976931348623157e308").unwrap().is_stable());
    }
}
