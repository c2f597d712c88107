//! The part of the actor that keeps its job going: one look at a time, when the state says that a step is due.

use std::sync::Arc;

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::actors::engine::RunningJob;
use crate::actors::jobs::{self, Wanted};
use crate::domain::subscription::{Command, Step};
use crate::domain::time::Timestamp;

/// After a look that found nothing out, in milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Where it is with looking for the job's next step.
#[derive(Default)]
pub(super) struct Looking {
    pub(super) under_way: bool,
    /// Not before this.
    again_at: Option<Timestamp>,
}

impl State {
    /// Looks for the job's next step, if one is due and there is room for what it may find: what is owed anyhow goes
    /// first, so no more may be due at a time than is sent at a time, and half of the open deliveries are left to matches.
    pub(super) fn look_for_step(&mut self) {
        let context = &self.arguments.context;
        let Some(candidates) = context.candidates.as_ref().filter(|_| !context.is_stopping()) else { return };
        let now = context.clock.now();
        if self.looking.under_way || !self.may_record || self.looking.again_at.is_some_and(|again_at| now < again_at) {
            return;
        }
        let most =
            self.loaded.state.job_room(now, context.config.max_attempts_per_subscription, self.most_open().div_ceil(2));
        let (Some(job), Ok(settings), Ok(shard)) = (&self.loaded.state.job, self.loaded.state.settings(), self.shard())
        else {
            return;
        };
        if most == 0 {
            return;
        }
        let (selection, cursor) = (job.started.selection.clone(), job.progress.cursor);
        let wanted = Wanted { tenant: settings.tenant, subscription: settings.id, shard, selection, cursor, most };
        let (context, candidates) = (Arc::clone(context), Arc::clone(candidates));
        jobs::look(context, candidates, self.arguments.regions.clone(), job.started.job, wanted);
        self.looking = Looking { under_way: true, again_at: None };
    }

    /// Takes the step that was found; `None`: the look failed.
    pub(super) fn take_step(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        step: Option<Step>,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.arguments.context.clock.now();
        self.looking.under_way = false;
        match step {
            Some(step) => self.carry_out(me, Command::AdvanceJob(Step { at: now, ..step })),
            None => {
                self.looking.again_at = Some(now.plus_ms(LOOK_AGAIN_MS));
                Ok(())
            }
        }
    }

    /// When to look again after a look that failed.
    pub(super) fn look_again_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.looking.again_at.filter(|again_at| *again_at > now && self.loaded.state.job.is_some())
    }

    /// The job as callers see it.
    pub(super) fn running_job(&self) -> Option<RunningJob> {
        let waiting = self.loaded.state.job_waits(self.arguments.context.clock.now());
        self.loaded.state.job.as_deref().cloned().map(|job| RunningJob { job, waiting })
    }
}
