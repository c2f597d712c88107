//! The end of a deleted subscription's window: its secrets are destroyed, and then it is remembered that they are.
//!
//! The durable wake-up of a deleted subscription stands at the end of its window, so a restart comes here as well. A
//! crash between the two destroys them once more, which changes nothing. If they cannot be destroyed the actor ends, and
//! the region tries again after a rest.

use std::sync::Arc;

use ractor::{ActorProcessingErr, ActorRef};

use super::{State, SubscriptionMessage};
use crate::domain::subscription::{Command, Restore};
use crate::domain::time::Timestamp;
use crate::execute::vault::{Binding, VaultError};

impl State {
    /// Begins to destroy the secrets, if it is time. From then on nobody can restore the subscription.
    pub(super) fn destroy_secrets(&mut self, me: &ActorRef<SubscriptionMessage>) {
        let is_durable = self.gate.life_version == self.loaded.life_version;
        if self.destroying || !self.may_record || !is_durable {
            return;
        }
        let at = self.arguments.context.clock.now();
        let Some(settings) = self.loaded.state.outlived(at) else { return };
        let sealed = |id| Binding::signing_secret(settings.tenant, settings.id, id);
        let secrets: Vec<_> = settings.secrets.iter().map(|secret| sealed(secret.id)).collect();
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
