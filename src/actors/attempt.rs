//! One HTTP try: from a message in the log to an outcome.
//!
//! A plain task, since it has no state worth an actor. It begins when the [dispatcher](super::dispatcher) has granted a
//! permit, builds the request, sends it, and reports through the subscription's region, also when it panics: every
//! attempt ends, and its permit comes back.
//!
//! The wait for a permit may be long, so where to send is looked up behind it: an attempt follows changes until it
//! begins, and is withdrawn if nothing may be sent any more (A13, A15). What it sends has to be read first, so it looks
//! again just before the sending: nothing is sent that begins behind the answer to a deletion. A profile may have the
//! URL of the time of the trigger instead; secrets are always those of now.
//!
//! A delivery whose message is not kept any more is given up instead.
//!
//! A crash between the answer and the report costs a second sending with the same id and bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::Context;
use super::dispatcher::Permit;
use super::region::Regions;
use super::subscription::SubscriptionMessage;
use super::target::{CurrentTarget, Target};
use crate::codec::{self, DecodeError};
use crate::domain::event::{Event, ExpiryReason, MessageEvent, MessagePublished};
use crate::domain::filter::EventType;
use crate::domain::header::CustomHeaders;
use crate::domain::id::{DeliveryId, MessageId, SubscriptionId};
use crate::domain::outcome::{Exchange, Failure, FailureCode};
use crate::domain::profile::UrlAsOf;
use crate::domain::signing::{self, Content};
use crate::domain::subscription::Finished;
use crate::domain::time::Timestamp;
use crate::event_store::{Position, ReadError};
use crate::execute::contents;
use crate::execute::history::{self, AsOf, Budget, HistoryError};
use crate::execute::vault::{Binding, VaultError};
use crate::outbound::{Request, without_access};

/// Why an attempt could not be made at all. Its text goes to the log, not to the tenant.
#[derive(Debug, thiserror::Error)]
enum Unmade {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Open(#[from] contents::OpenError),
    #[error("the custom headers cannot be opened")]
    Headers(#[source] VaultError),
    #[error("there is no message at {0}")]
    NoMessage(Position),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("nothing is to be sent any more, or elsewhere")]
    Withdrawn,
    #[error("the message at {position} is gone: {reason:?}")]
    Gone { position: Position, reason: ExpiryReason },
}

impl Unmade {
    /// What the subscription's owner may know of it.
    fn told(&self) -> &'static str {
        match self {
            Self::Headers(_) => "the custom headers cannot be opened: set them again",
            Self::Read(_)
            | Self::Decode(_)
            | Self::Vault(_)
            | Self::Open(_)
            | Self::NoMessage(_)
            | Self::History(_)
            | Self::Withdrawn
            | Self::Gone { .. } => "the attempt could not be made",
        }
    }
}

/// Which attempt of which delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) subscription: SubscriptionId,
    pub(super) delivery: DeliveryId,
    /// Counts from 1.
    pub(super) number: u32,
    /// Where the message stands.
    pub(super) message: Position,
    /// The message's place among all that were matched.
    pub(super) sequence: Option<u64>,
    /// The revision under which the delivery was scheduled, as far as it is known.
    pub(super) revision: Option<u64>,
    /// Whatever the clock says, it begins behind this.
    pub(super) behind: Option<Timestamp>,
}

/// Starts an attempt of a subscription's open delivery.
pub(super) fn start(context: Arc<Context>, regions: Regions, current: CurrentTarget, due: Due, permit: Permit) {
    let Due { subscription, delivery, number, .. } = due;
    tokio::spawn(async move {
        // Dropped last, however this ends.
        let _permit = permit;
        let withdraw = || {
            // The successor of an actor that has gone may have started the same attempt, and would take it for that.
            if !current.is_over() {
                regions.send(subscription, SubscriptionMessage::AttemptWithdrawn { delivery, number });
            }
        };
        if context.is_stopping() {
            return;
        }
        let Some(target) = current.target() else { return withdraw() };
        let now = context.clock.now();
        let finished = Finished {
            delivery,
            number,
            revision: target.revision,
            started_at: due.behind.map_or(now, |behind| behind.max(now)),
            ended_at: now,
            exchange: aborted("the attempt was interrupted"),
            random: context.clock.random_u64(),
        };
        // Dropped before the permit, so that whoever gets every permit knows every outcome to be on its way.
        let mut report = Report { regions: &regions, subscription, finished: Some(finished) };
        let exchange = match attempt(&context, &current, &target, due, now).await {
            Ok(exchange) => exchange,
            Err(Unmade::Withdrawn) => {
                report.finished = None;
                return withdraw();
            }
            // A rotation that came between the lookup and the reading of the secret destroyed it.
            Err(_) if current.target().is_none_or(|newer| newer.revision != target.revision) => {
                report.finished = None;
                return withdraw();
            }
            Err(Unmade::Gone { reason, .. }) => {
                report.finished = None;
                let gone = SubscriptionMessage::MessageGone { delivery, number, reason };
                return regions.send(subscription, gone);
            }
            Err(error) => {
                tracing::error!(delivery.id = %delivery, error = &error as &dyn std::error::Error, "attempt could not be made");
                aborted(error.told())
            }
        };
        if let Some(finished) = &mut report.finished {
            finished.ended_at = context.clock.now();
            finished.exchange = exchange;
        }
    });
}

fn aborted(detail: &str) -> Exchange {
    Exchange { latency_ms: 0, result: Err(Failure { code: FailureCode::Aborted, detail: detail.into() }) }
}

/// Tells the region how the attempt went when dropped, which a panic does too.
struct Report<'a> {
    regions: &'a Regions,
    subscription: SubscriptionId,
    finished: Option<Finished>,
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if let Some(finished) = self.finished.take() {
            self.regions.send(self.subscription, SubscriptionMessage::AttemptDone(Box::new(finished)));
        }
    }
}

async fn attempt(
    context: &Context,
    current: &CurrentTarget,
    target: &Target,
    due: Due,
    at: Timestamp,
) -> Result<Exchange, Unmade> {
    let erasures = context.log.erasures();
    let (message, data) = read_message(context, due.message).await?;
    let content = Content {
        message: message.message,
        event_type: &message.event_type,
        occurred_at: message.occurred_at,
        tenant: &message.tenant_slug,
        data: &data,
        sequence: due.sequence,
    };
    let url = url(context, target, due.revision).await?;
    let (request, custom) = request(context, target, url, &content, at, target.timeout_ms).await?;
    // Whatever was decided while all this was read counts: nothing waits between this look and the sending.
    if current.target().is_none_or(|newest| newest.revision != target.revision) {
        return Err(Unmade::Withdrawn);
    }
    // What was erased meanwhile is sent no more.
    if context.log.erasures() != erasures {
        read_message(context, due.message).await?;
    }
    Ok(post(context, request, &custom).await)
}

/// Sends it. What the endpoint sends back of the custom headers is not kept.
async fn post(context: &Context, request: Request, custom: &CustomHeaders) -> Exchange {
    let mut exchange = context.transport.post(request).await;
    if let Ok(response) = &mut exchange.result {
        custom.redact(&mut response.preview);
        for (_, value) in &mut response.headers {
            custom.redact(value);
            *value = without_access(value);
        }
    }
    exchange
}

/// Where to send: to the newest URL, or to that of the revision under which the delivery was scheduled. What the
/// subscription was then its own stream says, so nobody keeps it; only an attempt that follows an edit reads it.
async fn url(context: &Context, target: &Target, scheduled_under: Option<u64>) -> Result<String, Unmade> {
    let earlier = match target.profile.url_as_of {
        UrlAsOf::Attempt => None,
        UrlAsOf::Trigger => scheduled_under.filter(|revision| *revision < target.revision),
    };
    let Some(revision) = earlier else { return Ok(target.url.clone()) };
    let (as_of, budget) = (AsOf::Version(revision), Budget::default());
    let found = history::snapshot(context.log.reader(), target.tenant, target.subscription, as_of, &budget).await?;
    Ok(found.map_or_else(|| target.url.clone(), |(then, _)| then.version.settings.url))
}

async fn request(
    context: &Context,
    target: &Target,
    url: String,
    content: &Content<'_>,
    at: Timestamp,
    timeout_ms: u64,
) -> Result<(Request, CustomHeaders), Unmade> {
    let mut secrets = Vec::with_capacity(target.secrets.len());
    for id in &target.secrets {
        let binding = Binding::signing_secret(target.tenant, target.subscription, *id);
        match context.vault.secret(&binding).await {
            Ok(secret) => secrets.push(secret),
            // It retired while the attempt waited for its turn, and was pruned; the current one, which is the first, signs.
            Err(VaultError::Missing(_)) if !secrets.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let body = signing::body(target.profile, content);
    let mut headers = signing::headers(target.profile, content, &body, &secrets, at);
    let custom = custom_headers(context, target).await?;
    headers.extend(custom.expose().map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok((Request { url, headers, body: Bytes::from(body), timeout_ms }, custom))
}

async fn custom_headers(context: &Context, target: &Target) -> Result<CustomHeaders, Unmade> {
    let Some(id) = target.headers else { return Ok(CustomHeaders::default()) };
    let binding = Binding::custom_headers(target.tenant, target.subscription, id);
    let sealed = context.vault.secret(&binding).await.map_err(Unmade::Headers)?;
    CustomHeaders::of_secret(&sealed).ok_or_else(|| Unmade::Headers(VaultError::Damaged(id.to_string())))
}

async fn read_message(context: &Context, position: Position) -> Result<(MessagePublished, String), Unmade> {
    let gone = |reason| Unmade::Gone { position, reason };
    let Some((recorded, content)) = context.log.event(position).await? else {
        return Err(match position.seq <= context.log.floor(position.shard) {
            true => gone(ExpiryReason::MessageDropped),
            false => Unmade::NoMessage(position),
        });
    };
    let Event::Message(MessageEvent::Published(published)) = codec::decode(&recorded)? else {
        return Err(Unmade::NoMessage(position));
    };
    let content = content.ok_or_else(|| gone(ExpiryReason::DataErased))?;
    let data = contents::open(context.log.reader(), &context.vault, &published, &content).await?;
    Ok((published, data.ok_or_else(|| gone(ExpiryReason::DataErased))?))
}

/// A synthetic message for a test delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct TestDelivery {
    /// The event type that it pretends to tell of.
    pub event_type: EventType,
    /// Canonical JSON.
    pub data: String,
    /// The tenant's public id.
    pub tenant_slug: String,
}

/// Sends a test delivery: the same signing, headers and gates as real traffic, and no trace in any delivery (A17, S27).
///
/// Answers with what was sent too; `None`: nothing could be.
pub(super) async fn test(
    context: &Context,
    target: &Target,
    test: &TestDelivery,
    message: MessageId,
) -> (Option<Request>, Exchange) {
    let at = context.clock.now();
    let content = Content {
        message,
        event_type: &test.event_type,
        occurred_at: at,
        tenant: &test.tenant_slug,
        data: &test.data,
        sequence: None,
    };
    match request(context, target, target.url.clone(), &content, at, target.profile.test_timeout_ms).await {
        Ok((request, custom)) => (Some(request.clone()), post(context, request, &custom).await),
        Err(error) => {
            tracing::error!(subscription.id = %target.subscription, error = &error as &dyn std::error::Error, "test delivery could not be made");
            (None, aborted(error.told()))
        }
    }
}
