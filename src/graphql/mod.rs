//! The GraphQL API. The only home of async-graphql.
//!
//! Resolvers translate and nothing more: they check a scope, ask the engine or one read model, and map the answer.
//!
//! - Every root field and every field that can fail is nullable, and fails alone: a mutation's neighbour keeps its
//!   answer, and with it a secret that is shown once. Fields that fail return `Option<Result<T>>` through
//!   [`failure::nullable`]; a `Result<Option<T>>` or a guard would null the parent too.
//! - What the caller can put right is a typed `UserError` in the payload. Everything else is an error with a code of
//!   [`crate::error_code::ErrorCode`]; faults of ours are masked and found in the logs by their request id.
//! - A caller sees its own tenant. Somebody else's thing is answered like one that does not exist: with `null` or
//!   `NOT_FOUND`, never with `FORBIDDEN`. Operators reach other tenants through `tenant(id:)` and `tenantId` inputs.
//! - A document is measured before anything walks it ([`limits`]): the library's own limits follow fragments without
//!   remembering them, and a kilobyte could keep them busy for half a minute.
//! - What a document costs its caller is taken from a budget before anything runs ([`charge`]).
//! - JSON comes out as the bytes that were stored. Going in, the library has numbers as 64-bit integers and doubles
//!   ([`scalar::Json`]), so that a message can also be given as text (`dataJson`), every digit of which is kept.
//!
//! Knows nothing of HTTP: [`request`] has what the transports call.

mod failure;
mod scalar;
mod caller;
mod charge;
mod header;
mod item;
mod circuit;
mod limits;
mod number;
mod page;
mod range;
mod loader;
mod erasure;
mod event_type;
mod profile;
mod deleted_webhook;
mod exchange;
mod delivery;
mod message;
mod timers;
mod statistics;
mod job;
mod webhook;
mod preview;
mod snapshot;
mod explanation;
mod sequence;
mod ledger;
mod alert;
mod audit;
mod projection;
mod step_up;
mod access;
mod user;
mod quarantine;
mod node;
mod query;
mod mutation;
mod live;
mod request;
mod retry_policy;

use std::sync::Arc;

use async_graphql::Context;

pub use caller::Caller;
pub use page::List;
pub use request::{Answer, Incoming, Kind, Outcome, Prepared, prepare};

use crate::actors::Engine;
use crate::authentication::KeyRing;
use crate::clock::Clock;
use crate::event_store::Log;
use crate::execute::ledger::Ledger;
use crate::projections::ReadModels;
use crate::rate_limit::RateLimits;

/// What resolvers work with.
pub struct SchemaContext {
    /// Carries out mutations.
    pub engine: Engine,
    /// Answer queries.
    pub read_models: ReadModels,
    /// Tells how things stood earlier.
    pub log: Log,
    /// Where every match stands.
    pub ledger: Ledger,
    /// Time, and randomness for new ids and API keys.
    pub clock: Arc<dyn Clock>,
    /// Knows callers.
    pub keys: Arc<KeyRing>,
    /// How much they may ask for.
    pub limits: RateLimits,
}

type Inner = async_graphql::Schema<query::Query, mutation::Mutation, live::Live>;

/// The schema with everything behind it. Cheap to clone.
#[derive(Clone)]
pub struct Schema(Inner);

/// Builds the schema.
pub fn schema(context: SchemaContext) -> Schema {
    Schema(limits::apply(builder()).extension(charge::Charging).extension(number::Numbers).data(context).finish())
}

impl Schema {
    /// Knows callers; forgets at once those whose credentials this schema's mutations end.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.context().keys
    }

    /// Carries out what other transports than GraphQL ask for.
    pub fn engine(&self) -> &Engine {
        &self.context().engine
    }

    fn context(&self) -> &SchemaContext {
        self.0.data().expect("`schema` put it there")
    }
}

/// The schema in GraphQL's own language, as `schema/schema.graphql` has it.
pub fn sdl() -> String {
    builder()
        .finish()
        .sdl_with_options(async_graphql::SDLExportOptions::new().prefer_single_line_descriptions().use_space_ident())
}

fn builder() -> async_graphql::SchemaBuilder<query::Query, mutation::Mutation, live::Live> {
    Inner::build(query::Query, mutation::Mutation::default(), live::Live)
}

fn state<'a>(ctx: &Context<'a>) -> &'a SchemaContext {
    ctx.data_unchecked()
}

fn keys<'a>(ctx: &Context<'a>) -> &'a KeyRing {
    &state(ctx).keys
}
