//! The wall clock and the random source: the only place that asks the outside for either.
//!
//! Everything else takes a [`Clock`], so that tests decide both and print the seed.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::domain::id::{
    ApiKeyId, DeliveryId, ErasureId, EventId, JobId, MessageId, RequestId, SecretId, SubscriptionId, TenantId, UserId,
};
use crate::domain::time::Timestamp;

/// Time and chance.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Fills the buffer with random bytes, fit for secrets.
    fn fill(&self, buffer: &mut [u8]);
}

/// The operating system's clock and random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that may ask")]
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("without the system's random source no secret can be made");
    }
}

/// A clock that begins where a test says and follows tokio's time, which tests can pause; its randomness follows from
/// the seed.
#[derive(Debug)]
pub struct SeededClock {
    start: Timestamp,
    started: Instant,
    state: Mutex<u64>,
}

impl SeededClock {
    /// A clock at `start` whose random bytes follow from `seed`.
    pub fn new(start: Timestamp, seed: u64) -> Self {
        Self { start, started: Instant::now(), state: Mutex::new(seed) }
    }
}

impl Clock for SeededClock {
    fn now(&self) -> Timestamp {
        self.start.plus_ms(self.started.elapsed().as_millis() as u64)
    }

    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.state.lock().expect("no holder of this lock can panic");
        for chunk in buffer.chunks_mut(8) {
            // SplitMix64
            *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = *state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            bits ^= bits >> 31;
            chunk.copy_from_slice(&bits.to_le_bytes()[..chunk.len()]);
        }
    }
}

macro_rules! new_ids {
    ($($(#[$doc:meta])* $name:ident -> $id:ident;)*) => {
        impl dyn Clock {
            $($(#[$doc])* pub fn $name(&self) -> $id {
                $id::from_parts(self.now().as_ms() as u64, self.random_u128())
            })*
        }
    };
}

new_ids! {
    /// A new tenant's id.
    tenant_id -> TenantId;
    /// A new subscription's id.
    subscription_id -> SubscriptionId;
    /// A new message's id.
    message_id -> MessageId;
    /// A new delivery's id.
    delivery_id -> DeliveryId;
    /// A new job's id.
    job_id -> JobId;
    /// A new erasure's id.
    erasure_id -> ErasureId;
    /// A new API key's id.
    api_key_id -> ApiKeyId;
    /// A new user's id.
    user_id -> UserId;
    /// A new request's id.
    request_id -> RequestId;
    /// A new secret's id.
    secret_id -> SecretId;
    /// A new event's id.
    event_id -> EventId;
}

impl dyn Clock {
    /// 64 random bits.
    pub fn random_u64(&self) -> u64 {
        u64::from_le_bytes(self.random_bytes())
    }

    /// Random bytes.
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    fn random_u128(&self) -> u128 {
        // An id takes 80 bits.
        u128::from_le_bytes(self.random_bytes()) & ((1 << 80) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seeded_clock_follows_paused_time_and_repeats_its_ids() {
        let ids = || {
            let clock: Box<dyn Clock> = Box::new(SeededClock::new(Timestamp::from_ms(5), 1));
            [clock.message_id(), clock.message_id()]
        };
        assert_eq!(ids(), ids());
        let clock = SeededClock::new(Timestamp::from_ms(5), 1);
        tokio::time::advance(std::time::Duration::from_millis(1_500)).await;
        assert_eq!(clock.now(), Timestamp::from_ms(1_505));
    }
}
