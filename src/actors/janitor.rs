//! Lets go of what is too old to be kept: message data first, then whole buckets, the oldest first. One for the log.
//!
//! A bucket is dropped when nobody needs it any more:
//! - it ended so long ago that nothing in it has to be kept ([`retention::Config`]);
//! - no stream that is still written has to be read from it: owners of those that do are asked to begin a new period,
//!   some at a time, and each of them only once for each time that a bucket grows old;
//! - every reader has passed it: the matchers and the read models have their checkpoints, and the log refuses otherwise.
//!
//! Keys of data that is gone are let go too, and once a day secrets that nobody refers to (`execute::vault`).
//!
//! Whatever holds a bucket back is told once, and is asked again at every look. Nothing waits for the janitor: it drops by
//! small steps, each a commit of its own, and may end between any two of them. After a restart it goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::region::Regions;
use super::subscription::SubscriptionMessage;
use super::{Context, intake};
use crate::domain::time::Timestamp;
use crate::event_store::{AppendError, Bucket, DropError, Position, ReadError, StreamName};
use crate::execute::retention::{self, end_of};
use crate::execute::vault::{Orphans, VaultError};
use crate::execute::{DELIVERIES_CATEGORY, MESSAGES_CATEGORY, subscription_of, tenant_of};

/// Name of the read models' checkpoint in the log.
const READ_MODELS: &str = "read-models";
/// Streams that are asked at a time to begin a new period: each may have to be loaded for it.
const ASKED_AT_A_TIME: usize = 256;
/// How long those who were asked are given before the next ones are, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;
/// How much longer than the data that it sealed a data key is kept: buckets may once have been as long as this.
const KEYS_KEPT_MS: u64 = 31 * 24 * 3_600_000;
/// How often secrets are looked for that nobody refers to, in milliseconds: a day.
const PRUNE_EVERY_MS: u64 = 24 * 3_600_000;
/// Rows that one step drops at most, so that appends need not wait long for it.
const STEP_ROWS: u32 = 2_000;

/// How far the read models have come in a shard: the number of the last event that all of them have applied.
pub type Applied = Arc<dyn Fn(u16) -> u64 + Send + Sync>;

/// What is kept how long, and for whom.
#[derive(Clone, Default)]
pub struct Retention {
    /// How long.
    pub config: retention::Config,
    /// How far the read models have come; `None` if there are none.
    pub applied: Option<Applied>,
}

/// Why a look ended early; there is another one.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the log failed: {0}")]
    Read(#[from] ReadError),
    #[error("the log failed: {0}")]
    Append(#[from] AppendError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Looks from time to time until it is stopped.
pub(super) async fn run(
    context: &Context,
    regions: &Regions,
    intake: &mpsc::Sender<intake::Request>,
    stop: &mut watch::Receiver<bool>,
) {
    let check_every_ms = context.retention.config.check_every_ms.max(1);
    let mut janitor = Janitor {
        context,
        regions,
        intake,
        asked: vec![],
        told: None,
        erased_through: None,
        data_from: None,
        pruned_at: None,
        orphans: Orphans::default(),
    };
    let mut pause_ms = check_every_ms;
    // A sender that is gone means the same.
    while tokio::time::timeout(Duration::from_millis(pause_ms), stop.wait_for(|stop| *stop)).await.is_err() {
        let looked = match janitor.look().await {
            Ok(looked) => janitor.look_at_keys().await.map(|()| looked),
            Err(error) => Err(error),
        };
        pause_ms = match looked {
            Ok(Look::Done) => check_every_ms,
            Ok(Look::Asked) => check_every_ms.min(ASK_AGAIN_MS),
            Err(error) => {
                janitor.tell(&error.to_string());
                check_every_ms
            }
        };
    }
}

/// How a look ended.
enum Look {
    /// There is nothing to be done before the next one.
    Done,
    /// Streams have been asked to begin new periods that were not asked just before.
    Asked,
}

struct Janitor<'a> {
    context: &'a Context,
    regions: &'a Regions,
    intake: &'a mpsc::Sender<intake::Request>,
    /// Whom the last look asked.
    asked: Vec<StreamName>,
    /// What was told last, so that it is not told again.
    told: Option<String>,
    /// Contents up to here are known to be gone.
    erased_through: Option<Bucket>,
    /// The oldest bucket that may hold data of messages, when keys were last let go.
    data_from: Option<Bucket>,
    /// When secrets that nobody refers to were last looked for.
    pruned_at: Option<Timestamp>,
    /// What those looks remember.
    orphans: Orphans,
}

/// A bucket in a shard.
struct Part {
    shard: u16,
    bucket: Bucket,
    /// The last number that it holds there.
    last: u64,
}

impl Janitor<'_> {
    async fn look(&mut self) -> Result<Look, Failure> {
        let config = &self.context.retention.config;
        let now = self.context.clock.now();
        let mut parts = self.parts().await?;
        if let Some(through) = config.bodies_through(now) {
            self.erase(&parts, through).await?;
        }
        let Some(through) = config.events_through(now) else { return Ok(Look::Done) };
        while !self.context.is_stopping() {
            let oldest = parts.iter().map(|part| part.bucket).min();
            let Some(oldest) = oldest.filter(|bucket| *bucket <= through) else {
                self.told = None;
                return Ok(Look::Done);
            };
            let live = self.ask(&parts, oldest).await?;
            if !live.is_empty() {
                let others = live != self.asked;
                if !others {
                    self.tell(&format!("{} still rests on it", live[0]));
                }
                self.asked = live;
                return Ok(if others { Look::Asked } else { Look::Done });
            }
            self.save_read_models(&parts, oldest).await?;
            match self.drop_bucket(oldest).await {
                Ok(()) => {}
                Err(DropError::Append(error)) => return Err(error.into()),
                Err(refusal @ (DropError::StillLive { .. } | DropError::StillRead { .. })) => {
                    self.tell(&refusal.to_string());
                    return Ok(Look::Done);
                }
            }
            parts.retain(|part| part.bucket != oldest);
        }
        Ok(Look::Done)
    }

    /// Keys of data that is gone, and secrets that nobody refers to.
    async fn look_at_keys(&mut self) -> Result<(), Failure> {
        let oldest = self.parts().await?.iter().map(|part| part.bucket).min();
        let from = oldest.map(|oldest| self.erased_through.map_or(oldest, |gone| oldest.max(Bucket(gone.0 + 1))));
        if let Some(from) = from.filter(|from| self.data_from != Some(*from)) {
            // What stands in a bucket was published before its end, and not longer before than buckets are long.
            let margin_ms = KEYS_KEPT_MS + u64::from(self.context.retention.config.bucket_minutes) * 60_000;
            // A clock that was ahead let go of what is published now under this month's key.
            let published = end_of(from).min(self.context.clock.now()).minus_ms(margin_ms);
            let keys = self.context.vault.destroy_data_keys_before(published).await?;
            self.data_from = Some(from);
            if keys > 0 {
                tracing::info!(keys, "keys of data that is gone were destroyed");
            }
        }
        let now = self.context.clock.now();
        if self.pruned_at.is_none_or(|at| now.ms_since(at) >= PRUNE_EVERY_MS) {
            self.prune(now).await?;
            self.pruned_at = Some(now);
        }
        Ok(())
    }

    async fn prune(&mut self, now: Timestamp) -> Result<(), VaultError> {
        let (mut pruned, mut after) = (0, String::new());
        self.orphans.begin(&self.context.log).await;
        while !self.context.is_stopping() {
            let (orphans, next) = self.context.vault.prune(&self.context.log, &mut self.orphans, &after, now).await?;
            pruned += orphans;
            let Some(next) = next else { break };
            after = next;
            tokio::task::yield_now().await;
        }
        if pruned > 0 {
            tracing::info!(pruned, "secrets that nobody referred to were destroyed");
        }
        Ok(())
    }

    async fn parts(&self) -> Result<Vec<Part>, ReadError> {
        let log = &self.context.log;
        let mut parts = Vec::new();
        for shard in 0..log.shards() {
            let ends = log.reader().buckets(shard).await?;
            parts.extend(ends.iter().map(|end| Part { shard, bucket: end.bucket, last: end.last.seq }));
        }
        Ok(parts)
    }

    /// Asks owners of streams that rest on the bucket to begin new periods. Answers with the streams.
    async fn ask(&self, parts: &[Part], bucket: Bucket) -> Result<Vec<StreamName>, ReadError> {
        let log = &self.context.log;
        let mut asked = Vec::new();
        for shard in 0..log.shards() {
            let room = ASKED_AT_A_TIME - asked.len();
            if room == 0 {
                break;
            }
            let live = log.reader().live_through(shard, bucket, room).await?;
            let here = parts.iter().find(|part| (part.shard, part.bucket) == (shard, bucket));
            let gone_through = here.map_or(0, |part| part.last).max(log.floor(shard));
            for stream in live {
                self.ask_owner(&stream, bucket, gone_through);
                asked.push(stream);
            }
        }
        Ok(asked)
    }

    fn ask_owner(&self, stream: &str, through: Bucket, gone_through: u64) {
        let category = stream.split_once('-').map_or("", |(category, _)| category);
        match (category, subscription_of(stream), tenant_of(stream)) {
            (DELIVERIES_CATEGORY, Some(id), _) => {
                self.regions.send(id, SubscriptionMessage::OpenPeriod { through, gone_through });
            }
            // One that finds the queue full is asked again.
            (MESSAGES_CATEGORY, _, Some(tenant)) => {
                drop(self.intake.try_send(intake::Request::OpenPeriod { tenant, through }));
            }
            // Nobody writes such a stream; it is told that the bucket is held back, and by what.
            (_, _, _) => {}
        }
    }

    /// Tells the log how far the read models are, which may be less far than before: they may be built anew.
    async fn save_read_models(&self, parts: &[Part], bucket: Bucket) -> Result<(), AppendError> {
        let Some(applied) = &self.context.retention.applied else { return Ok(()) };
        for part in parts.iter().filter(|part| part.bucket == bucket) {
            let at = Position { shard: part.shard, seq: applied(part.shard) };
            self.context.log.save_checkpoint(READ_MODELS, at).await?;
        }
        Ok(())
    }

    async fn drop_bucket(&mut self, bucket: Bucket) -> Result<(), DropError> {
        let mut rows = 0;
        loop {
            let dropped = self.context.log.drop_bucket(bucket, STEP_ROWS).await?;
            rows += dropped.rows;
            if !dropped.more {
                break;
            }
            if self.context.is_stopping() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.told = None;
        tracing::info!(
            bucket = bucket.0,
            rows,
            "what happened before {} was let go",
            end_of(bucket).to_rfc3339_seconds()
        );
        Ok(())
    }

    async fn erase(&mut self, parts: &[Part], through: Bucket) -> Result<(), AppendError> {
        let newest = parts.iter().map(|part| part.bucket).filter(|bucket| *bucket <= through).max();
        let Some(newest) = newest.filter(|newest| self.erased_through.is_none_or(|done| done < *newest)) else {
            return Ok(());
        };
        let mut rows = 0;
        loop {
            let dropped = self.context.log.drop_contents(newest, STEP_ROWS).await?;
            rows += dropped.rows;
            if !dropped.more {
                break;
            }
            if self.context.is_stopping() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.erased_through = Some(newest);
        if rows > 0 {
            tracing::info!(rows, "data of messages before {} was erased", end_of(newest).to_rfc3339_seconds());
        }
        Ok(())
    }

    fn tell(&mut self, reason: &str) {
        if self.told.as_deref() != Some(reason) {
            tracing::warn!(reason, "nothing more can be let go for now, and the log grows: {reason}");
            self.told = Some(reason.to_owned());
        }
    }
}
