//! The audit log as it grows.

use super::super::columns::{integer, unpacked};
use super::super::rows::AuditRow;
use super::super::{AuditFilter, Key, Name, Page, ReadModels, TenantScope};
use super::{Front, WatchError};

/// Rows that are read at a time.
const PAGE: usize = 100;

/// Tells new rows of the audit log, the oldest first. Rows are never dropped, so that a key never grows too old.
pub struct AuditWatch {
    front: Front,
    scope: TenantScope,
    filter: AuditFilter,
    /// Everything up to this number was told.
    told: u64,
}

impl ReadModels {
    /// Watches the audit log, from behind the key on; without one from now on. What is told, these projections besides
    /// the audit log's show already.
    ///
    /// # Errors
    /// [`WatchError::Foreign`] if the key cannot be one of the tenant's.
    pub fn watch_audit(
        &self,
        scope: TenantScope,
        filter: AuditFilter,
        after: Option<&Key>,
        projections: &'static [Name],
    ) -> Result<AuditWatch, WatchError> {
        let front = Front::of(self, scope, projections)?;
        let told = after.map(|key| front.number(key)).transpose()?.unwrap_or_else(|| front.applied());
        Ok(AuditWatch { front, scope, filter, told })
    }
}

impl AuditWatch {
    /// Waits for the next rows. Loses none if it is dropped while it waits.
    pub async fn next(&mut self) -> Result<Vec<(Key, AuditRow)>, WatchError> {
        loop {
            let applied = self.front.beyond(self.told).await;
            let rows = self.rows(applied).await?;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn rows(&mut self, applied: u64) -> Result<Vec<(Key, AuditRow)>, WatchError> {
        // The list begins with the newest: its end between the two keys are the oldest rows that were not told.
        let newer = Key(integer(self.front.packed(applied)).saturating_add(1), String::new());
        let page = Page { after: Some(newer), before: Some(self.front.key(self.told)), limit: PAGE, from_end: true };
        let slice = self.front.read_models.audit(self.scope, &self.filter, &page).await?;
        let mut rows = slice.rows;
        rows.reverse();
        self.told = match slice.edge.as_ref().or(rows.last().map(|(key, _)| key)) {
            Some(key) if slice.has_more => unpacked(key.0.unsigned_abs()).seq,
            Some(_) | None => applied,
        };
        if slice.has_more {
            // The rest is there: no reason to wait for it.
            self.front.looked_at = None;
        }
        Ok(rows)
    }
}
