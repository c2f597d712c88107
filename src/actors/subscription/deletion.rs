//! The end of secrets: of those that a change replaces, and of a deleted subscription's at the end of its window.
//!
//! What is replaced is destroyed once the change is durable. A crash between the two leaves it sealed, and nobody refers
//! to it. What is left of a deleted subscription is destroyed first, and then it is remembered that it is.
//!
//! The durable wake-up of a deleted subscription stands at the end of its window, so a restart comes here as well. A
//! crash between the two destroys them once more, which changes nothing. If they cannot be destroyed the actor ends, and
//! the region tries again after a rest.

use std::sync::Arc;

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::actors::Context;
use crate::domain::subscription::{Command, Restore};
use crate::domain::time::Timestamp;
use crate::execute::vault::{Binding, VaultError};

/// What is sealed, and signs and goes along no more.
pub(super) struct Replaced {
    context: Arc<Context>,
    secrets: Vec<Binding>,
}

impl Replaced {
    pub(super) async fn destroy(self) {
        for secret in self.secrets {
            if let Err(error) = self.context.vault.destroy(&secret).await {
                tracing::error!("a secret is replaced, but cannot be destroyed for now: {error}");
            }
        }
    }
}

impl State {
    /// Everything of it that is sealed and not to be destroyed yet.
    pub(super) fn sealed(&self) -> Vec<Binding> {
        self.loaded.state.kept_settings().map(Binding::all_of).unwrap_or_default()
    }

    /// What of all that was sealed is not used any more; `None` if everything is.
    pub(super) fn replaced(&self, before: Vec<Binding>) -> Option<Replaced> {
        let used = self.sealed();
        let secrets: Vec<_> = before.into_iter().filter(|secret| !used.contains(secret)).collect();
        (!secrets.is_empty()).then(|| Replaced { context: Arc::clone(&self.arguments.context), secrets })
    }

    /// Begins to destroy the secrets, if it is time. From then on nobody can restore the subscription.
    pub(super) fn destroy_secrets(&mut self, me: &ActorRef<SubscriptionMessage>) {
        let is_durable = self.gate.life_version == self.loaded.life_version;
        if self.destroying || !self.may_record || !is_durable {
            return;
        }
        let at = self.arguments.context.clock.now();
        let Some(settings) = self.loaded.state.outlived(at) else { return };
        let secrets = Binding::all_of(settings);
        self.destroying = true;
        let (context, me) = (Arc::clone(&self.arguments.context), me.clone());
        tokio::spawn(async move {
            let mut result = Ok(());
            for secret in secrets {
                result = context.vault.destroy(&secret).await;
                if result.is_err() {
                    break;
                }
            }
            // A dead actor begins anew in its next life.
            drop(me.cast(SubscriptionMessage::SecretsDestroyed { at, result }));
        });
    }

    pub(super) fn secrets_destroyed(
        &mut self,
        me: &ActorRef<SubscriptionMessage>,
        at: Timestamp,
        result: Result<(), VaultError>,
    ) -> Result<(), ActorProcessingErr> {
        result?;
        self.carry_out(me, Command::Forget { at })?;
        self.destroying = false;
        Ok(())
    }

    /// Adds what the actor alone knows.
    pub(super) fn with_destruction(&self, command: Command) -> Command {
        if let Command::Restore(restore) = command {
            return Command::Restore(Restore { too_late: restore.too_late || self.destroying, ..restore });
        }
        command
    }
}
