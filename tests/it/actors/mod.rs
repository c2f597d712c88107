//! The actors as a whole: over the log in memory, in paused time, against a scripted endpoint.

mod breaker;
mod changes;
mod controls;
mod crowds;
mod erasure;
mod fairness;
mod faults;
mod headers;
mod idempotency;
mod intake;
mod isolation;
mod jobs;
mod order;
mod passivation;
mod restart;
mod restoring;
mod retention;
mod retry_policy;
mod schedule;
mod secrets;
mod shards;
mod simulation;
mod snapshots;
mod stop;
