//! How long what is kept, and where a bucketed stream's next event goes.
//!
//! A [`Bucket`] has the number of the minute, counted from 1970, at which it ends. So its age can be told from the
//! number alone, also after the operator has made buckets longer or shorter.

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;
use crate::event_store::{Bucket, Lifetime, Period};

const MINUTE_MS: u64 = 60_000;

/// How long what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long messages, deliveries and attempts are kept, in minutes; 0: for ever. They go by whole buckets, so the
    /// oldest ones are kept for up to a bucket's length more. Default: 43200, which is 30 days.
    pub events_minutes: u32,
    /// How long the data of messages is kept, in minutes, by whole buckets as well; 0: as long as the messages. Default:
    /// 0.
    pub bodies_minutes: u32,
    /// The length of a bucket, in minutes. Default: 1440, which is a day.
    pub bucket_minutes: u32,
    /// After how many events a stream begins a new period, even within a bucket: what has to be read at most. Default:
    /// 100000.
    pub period_events: u64,
    /// How often is looked for what is too old, in milliseconds. Default: 60000.
    pub check_every_ms: u64,
    /// How long backups of the databases are kept, in days: what was erased may stand in them so long, and receipts of
    /// erasures say so. Nothing else follows from it. 0: nobody says. Default: 30.
    pub backups_kept_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            events_minutes: 30 * 24 * 60,
            bodies_minutes: 0,
            bucket_minutes: 24 * 60,
            period_events: 100_000,
            check_every_ms: 60_000,
            backups_kept_days: 30,
        }
    }
}

impl Config {
    /// The bucket of what happens at that time.
    pub fn bucket_of(&self, at: Timestamp) -> Bucket {
        let length = self.bucket_minutes.max(1);
        Bucket((minute_of(at) / length).saturating_add(1).saturating_mul(length))
    }

    /// When a bucket of today's length begins.
    pub fn begin_of(&self, bucket: Bucket) -> Timestamp {
        end_of(bucket).minus_ms(u64::from(self.bucket_minutes.max(1)) * MINUTE_MS)
    }

    /// The newest bucket whose events are too old to be kept; `None` if all are kept for ever.
    pub fn events_through(&self, now: Timestamp) -> Option<Bucket> {
        ended_before(now, self.events_minutes)
    }

    /// The newest bucket whose contents are too old to be kept; `None` if they go with the events.
    pub fn bodies_through(&self, now: Timestamp) -> Option<Bucket> {
        ended_before(now, self.bodies_minutes)
    }

    /// How long the next events of a bucketed stream live which is at `version` and in this period: a period ends with
    /// its bucket, or when it is long enough. A stream never goes back to an older bucket, whatever the clock does.
    pub fn next_lifetime(&self, version: u64, period: Option<Period>, at: Timestamp) -> Lifetime {
        let bucket = self.bucket_of(at);
        match period {
            Some(open)
                if bucket <= open.bucket && (version + 1).saturating_sub(open.first_version) < self.period_events =>
            {
                Lifetime::Bucket(open.bucket)
            }
            Some(open) => Lifetime::Period(bucket.max(open.bucket)),
            // Its first event begins its first period.
            None if version == 0 => Lifetime::Bucket(bucket),
            // Its events were recorded before there were buckets.
            None => Lifetime::Period(bucket),
        }
    }
}

/// The period that is open behind a write of that lifetime which begins with that version.
pub fn period_behind(before: Option<Period>, lifetime: Lifetime, first_version: u64) -> Option<Period> {
    match lifetime {
        Lifetime::Kept => None,
        Lifetime::Bucket(bucket) if first_version == 1 => Some(Period { bucket, first_version }),
        Lifetime::Bucket(_) => before,
        Lifetime::Period(bucket) => Some(Period { bucket, first_version }),
    }
}

/// When the bucket ends.
pub fn end_of(bucket: Bucket) -> Timestamp {
    Timestamp::from_ms(0).plus_ms(u64::from(bucket.0) * MINUTE_MS)
}

fn ended_before(now: Timestamp, minutes: u32) -> Option<Bucket> {
    (minutes > 0).then(|| Bucket(minute_of(now).saturating_sub(minutes)))
}

fn minute_of(at: Timestamp) -> u32 {
    u32::try_from(at.ms_since(Timestamp::from_ms(0)) / MINUTE_MS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 60 * MINUTE_MS;

    fn hourly() -> Config {
        Config { bucket_minutes: 60, events_minutes: 120, period_events: 10, ..Config::default() }
    }

    fn at(hours: u64, minutes: u64) -> Timestamp {
        Timestamp::from_ms(0).plus_ms(hours * HOUR + minutes * MINUTE_MS)
    }

    #[test]
    fn a_bucket_is_named_by_its_end() {
        let config = hourly();
        assert_eq!(config.bucket_of(at(0, 0)), Bucket(60));
        assert_eq!(config.bucket_of(at(5, 59)), config.bucket_of(at(5, 0)));
        assert_eq!(end_of(config.bucket_of(at(5, 59))), at(6, 0));
        assert_eq!(config.begin_of(config.bucket_of(at(5, 59))), at(5, 0));
        assert_eq!(config.bucket_of(at(6, 0)), Bucket(420));
    }

    #[test]
    fn events_are_kept_as_long_as_said_and_a_bucket_more_at_most() {
        let config = hourly();
        let bucket = config.bucket_of(at(5, 30));
        assert!(config.events_through(at(7, 59)).unwrap() < bucket);
        assert_eq!(config.events_through(at(8, 0)), Some(bucket));
        assert_eq!(config.bodies_through(at(8, 0)), None);
        assert_eq!(Config { events_minutes: 0, ..config }.events_through(at(9_000_000, 0)), None);
    }

    #[test]
    fn a_period_ends_with_its_bucket_or_when_it_is_long_enough() {
        let config = hourly();
        let open = Period { bucket: config.bucket_of(at(5, 0)), first_version: 21 };
        assert_eq!(config.next_lifetime(0, None, at(5, 0)), Lifetime::Bucket(open.bucket));
        assert_eq!(config.next_lifetime(20, None, at(5, 0)), Lifetime::Period(open.bucket));
        assert_eq!(config.next_lifetime(29, Some(open), at(5, 59)), Lifetime::Bucket(open.bucket));
        assert_eq!(config.next_lifetime(30, Some(open), at(5, 59)), Lifetime::Period(open.bucket));
        assert_eq!(config.next_lifetime(22, Some(open), at(6, 0)), Lifetime::Period(Bucket(420)));
        // The clock was set back.
        assert_eq!(config.next_lifetime(22, Some(open), at(1, 0)), Lifetime::Bucket(open.bucket));
    }

    proptest! {
        #[test]
        fn nothing_too_young_is_dropped_whatever_the_buckets_length_was_and_is(
            at_ms in 0..4_000_000_000_000_u64, before in 1..100_000_u32, kept in 1..100_000_u32, passed in 0..200_000_u64
        ) {
            // The length at the time of dropping has no say in it.
            let config = Config { bucket_minutes: before, events_minutes: kept, ..Config::default() };
            let written_at = Timestamp::from_ms(0).plus_ms(at_ms);
            let now = written_at.plus_ms(passed * MINUTE_MS);
            let dropped = config.events_through(now).is_some_and(|through| config.bucket_of(written_at) <= through);
            if passed <= u64::from(kept) {
                prop_assert!(!dropped);
            }
            if passed > u64::from(kept) + u64::from(before) {
                prop_assert!(dropped);
            }
        }
    }
}
