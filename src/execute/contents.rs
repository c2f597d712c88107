//! The data of messages at rest: salt and data, sealed together under the tenant's key of the month, bound to the message.
//!
//! Sealed bytes stand in the log, in its memory, and in copies of both; they are opened where they are used, each time. That
//! costs a few microseconds for a kilobyte, and keeps plain data out of everything that outlives its use.

use bytes::Bytes;

use super::vault::{Binding, SealingKey, Vault, VaultError};
use super::{LoadError, fold_tenant};
use crate::clock::Clock;
use crate::domain::event::MessagePublished;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::{self, SALT_BYTES};
use crate::event_store::EventReader;

/// What is stored beside the event of a message.
pub fn seal(
    key: &SealingKey,
    (tenant, message): (TenantId, MessageId),
    salt: &[u8; SALT_BYTES],
    data: &str,
    clock: &dyn Clock,
) -> Bytes {
    let plain = zeroize::Zeroizing::new([&salt[..], data.as_bytes()].concat());
    key.seal(&Binding::message_data(tenant, message), &plain, clock).into()
}

/// Why data cannot be opened now.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its key is missing although nobody destroyed it, or the data is damaged.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Whether the tenant was erased cannot be told.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The data of a message; `None` if its tenant was erased, and the key with it. A key that is missing otherwise is an error:
/// it may be one that was not restored.
pub async fn open(
    log: &dyn EventReader,
    vault: &Vault,
    published: &MessagePublished,
    content: &[u8],
) -> Result<Option<String>, OpenError> {
    let key = match vault.data_key_of(published.tenant, content).await {
        Ok(key) => key,
        Err(VaultError::Missing(_)) if fold_tenant(log, published.tenant).await?.0.is_erased() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let binding = Binding::message_data(published.tenant, published.message);
    let plain = key.open(&binding, content);
    let data = plain.as_deref().and_then(|plain| message::data_of(plain)).map(str::to_owned);
    data.map(Some).ok_or_else(|| VaultError::Damaged(binding.to_string()).into())
}
