//! Points in time as the log records them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::macros::format_description;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 time of the years 1970 to 9999, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an RFC 3339 time of the years 1970 to 9999")]
pub struct InvalidTimestamp(String);

/// 9999-12-31T23:59:59.999Z: the last moment that RFC 3339 can write.
const LAST_MS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// A moment by its distance from the epoch; clamped to the years that RFC 3339 can write.
    pub const fn from_ms(ms: i64) -> Self {
        Self(if ms < 0 {
            0
        } else if ms > LAST_MS {
            LAST_MS
        } else {
            ms
        })
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, as signature headers carry them.
    pub const fn as_seconds(self) -> i64 {
        self.0 / 1_000
    }

    /// This moment moved on by `ms` milliseconds; saturates.
    pub const fn plus_ms(self, ms: u64) -> Self {
        let ms = if ms > LAST_MS as u64 { LAST_MS } else { ms as i64 };
        Self::from_ms(self.0.saturating_add(ms))
    }

    /// This moment moved back by `ms` milliseconds, to 1970 at most.
    pub const fn minus_ms(self, ms: u64) -> Self {
        let ms = if ms > LAST_MS as u64 { LAST_MS } else { ms as i64 };
        Self::from_ms(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to this moment; zero if `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        if self.0 > earlier.0 { (self.0 - earlier.0) as u64 } else { 0 }
    }

    /// Reads RFC 3339, any offset; what is finer than a millisecond is cut off.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp(text.to_owned()))?;
        let ms = time.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(ms)
            .ok()
            .filter(|ms| (0..=LAST_MS).contains(ms))
            .map(Self)
            .ok_or_else(|| InvalidTimestamp(text.to_owned()))
    }

    /// `2025-11-23T10:30:15Z`: UTC in whole seconds, as the Axie document writes it (A19).
    pub fn to_rfc3339_seconds(self) -> String {
        self.as_utc()
            .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
            .expect("a time within the RFC 3339 years has every component")
    }

    /// `2026-06-02T14:32:11.483Z`: UTC in milliseconds, as the AxisSynapse document writes it (S14).
    pub fn to_rfc3339_ms(self) -> String {
        self.as_utc()
            .format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"))
            .expect("a time within the RFC 3339 years has every component")
    }

    /// `Sun, 23 Nov 2025 10:30:15 +0000`: UTC, as mails have it (RFC 5322, 3.3).
    pub fn to_rfc2822(self) -> String {
        let time = self.as_utc().replace_millisecond(0).expect("zero is a millisecond");
        time.format(&Rfc2822).expect("a time within the RFC 3339 years has every component")
    }

    fn as_utc(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .expect("construction keeps the value within the RFC 3339 years")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documents_time_formats_come_back_as_they_were_written() {
        // A19, S14
        assert_eq!(Timestamp::parse("2025-11-23T10:30:15Z").unwrap().to_rfc3339_seconds(), "2025-11-23T10:30:15Z");
        assert_eq!(Timestamp::parse("2026-06-02T14:32:11.483Z").unwrap().to_rfc3339_ms(), "2026-06-02T14:32:11.483Z");
        assert_eq!(
            Timestamp::parse("2026-06-02T16:32:11.4839+02:00").unwrap().to_rfc3339_ms(),
            "2026-06-02T14:32:11.483Z"
        );
    }

    #[test]
    fn mails_have_their_own_way_to_write_a_time() {
        let at = Timestamp::parse("2025-11-23T10:30:15.483Z").unwrap();
        assert_eq!(at.to_rfc2822(), "Sun, 23 Nov 2025 10:30:15 +0000");
    }

    #[test]
    fn what_is_no_time_is_refused_by_name() {
        assert_eq!(
            Timestamp::parse("yesterday").unwrap_err().to_string(),
            "'yesterday' is not an RFC 3339 time of the years 1970 to 9999"
        );
        assert!(Timestamp::parse("1969-12-31T23:59:59Z").is_err());
    }

    #[test]
    fn a_moment_never_leaves_the_years_it_can_be_written_in() {
        assert_eq!(Timestamp::from_ms(i64::MAX).to_rfc3339_ms(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_ms(5).plus_ms(u64::MAX).to_rfc3339_ms(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_ms(i64::MIN).to_rfc3339_ms(), "1970-01-01T00:00:00.000Z");
    }
}
