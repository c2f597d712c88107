//! Scalars: times, JSON, and whole numbers that GraphQL's `Int` cannot hold.
//!
//! `is_valid` reads the whole value: what it lets through fails when its field is executed, and then the library answers
//! `data: null`. With it would go what other fields of the same mutation have done, such as a secret that is shown once.

use async_graphql::{InputValueError, InputValueResult, Name, Number, Scalar, ScalarType, Value};

use crate::domain::time::Timestamp;

/// The name under which async-graphql writes a text into the answer as the JSON it is.
const RAW: &str = "$serde_json::private::RawValue";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime(pub(super) Timestamp);

/// A moment of the years 1970 to 9999 as RFC 3339 text. Written in UTC with milliseconds: `2026-06-02T14:32:11.483Z`;
/// read with any offset, and with what is finer than a millisecond cut off.
#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        Ok(Self(Timestamp::parse(text)?))
    }

    fn is_valid(value: &Value) -> bool {
        matches!(value, Value::String(text) if Timestamp::parse(text).is_ok())
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_rfc3339_ms())
    }
}

impl From<Timestamp> for DateTime {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Long(pub(super) u64);

/// A whole number of up to 64 bits, without sign, as decimal text: JavaScript keeps only 53 bits of a number.
#[Scalar]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        Ok(Self(text.parse()?))
    }

    fn is_valid(value: &Value) -> bool {
        matches!(value, Value::String(text) if text.parse::<u64>().is_ok())
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// A count for GraphQL's `Int`, which ends at 2^31; none of ours comes near.
pub(super) fn int(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Json(pub(super) String);

/// Any JSON. In answers it is byte for byte what was stored. In arguments whole numbers keep up to 64 bits, and
/// fractions become the nearest double, as in JavaScript; a whole number past 64 bits is refused rather than rounded.
#[Scalar(name = "JSON")]
impl ScalarType for Json {
    fn parse(value: Value) -> InputValueResult<Self> {
        let mut text = String::new();
        write(&value, &mut text).map_err(InputValueError::custom)?;
        Ok(Self(text))
    }

    fn is_valid(value: &Value) -> bool {
        write(value, &mut String::new()).is_ok()
    }

    fn to_value(&self) -> Value {
        Value::Object([(Name::new(RAW), Value::String(self.0.clone()))].into_iter().collect())
    }
}

impl From<&serde_json::Value> for Json {
    fn from(value: &serde_json::Value) -> Self {
        Self(value.to_string())
    }
}

/// Past this a number that arrives as a double may have been a whole number whose digits are lost.
const FIRST_LOST_WHOLE_NUMBER: f64 = 9_223_372_036_854_775_808.0;

/// Whether it may have been a whole number that 64 bits cannot hold.
pub(super) fn loses_digits(number: &Number) -> bool {
    number.is_f64() && number.as_f64().is_none_or(|double| double.abs() >= FIRST_LOST_WHOLE_NUMBER)
}

/// Writes by hand, since the library takes an object with the key [`RAW`] for JSON to be written as it stands.
fn write(value: &Value, out: &mut String) -> Result<(), &'static str> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Boolean(true) => out.push_str("true"),
        Value::Boolean(false) => out.push_str("false"),
        Value::Number(number) => {
            if loses_digits(number) {
                return Err("a number past 64 bits would lose digits; give the JSON as text");
            }
            out.push_str(&number.to_string());
        }
        Value::String(text) => write_text(text, out),
        Value::Enum(_) => return Err("a bare word is not JSON; put it in quotation marks"),
        Value::Binary(_) => return Err("bytes are not JSON"),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, out);
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (name, field)) in fields.iter().enumerate() {
                separate(index, out);
                write_text(name, out);
                out.push(':');
                write(field, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a text is always JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<String, String> {
        let value: Value = serde_json::from_str(json).unwrap();
        Json::parse(value).map(|json| json.0).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn json_goes_in_with_its_digits_or_not_at_all() {
        let text = r#"{"b":1,"a":[null,true,-9223372036854775808,18446744073709551615,0.5,"\u0001\"é"],"":{}}"#;
        assert_eq!(read(text).unwrap(), text);
        assert!(read(r#"{"n":18446744073709551616}"#).unwrap_err().contains("lose digits"));
        assert!(read("[-9223372036854775809]").is_err());
    }

    #[test]
    fn json_that_looks_like_the_librarys_own_marker_stays_what_it_is() {
        let text = format!(r#"{{"{RAW}":"{{}}"}}"#);
        assert_eq!(read(&text).unwrap(), text);
    }

    #[test]
    fn json_comes_out_byte_for_byte() {
        let stored = r#"{"2":1,"n":123456789012345678901234567890,"x":1.50}"#;
        assert_eq!(serde_json::to_string(&Json(stored.into()).to_value()).unwrap(), stored);
    }
}
