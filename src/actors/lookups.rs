//! How many names are looked up at once for a tenant that stores URLs: so that one whose name servers are silent leaves
//! the others their share of what may be looked up at a time. Attempts have permits for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::id::TenantId;

/// For one tenant. Each lookup takes seconds at most.
const MAX_PER_TENANT: usize = 8;

/// The lookups under way, by tenant. Clones count together.
#[derive(Clone, Default)]
pub(super) struct Lookups(Arc<Mutex<HashMap<TenantId, usize>>>);

/// One of them; it ends when this is dropped.
pub(super) struct Turn {
    lookups: Lookups,
    tenant: TenantId,
}

impl Lookups {
    /// Begins one, unless the tenant has too many.
    pub(super) fn begin(&self, tenant: TenantId) -> Option<Turn> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(tenant).or_default();
        if *count >= MAX_PER_TENANT {
            return None;
        }
        *count += 1;
        Some(Turn { lookups: self.clone(), tenant })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_so_many_lookups_and_others_have_theirs() {
        let (one, other) = (TenantId::from_parts(1, 1), TenantId::from_parts(1, 2));
        let lookups = Lookups::default();
        let mut turns: Vec<_> = (0..MAX_PER_TENANT).map(|_| lookups.begin(one).expect("there is room")).collect();
        assert!(lookups.clone().begin(one).is_none() && lookups.begin(other).is_some());
        turns.pop();
        assert!(lookups.begin(one).is_some());
        turns.clear();
        assert!(lookups.0.lock().expect("nobody panicked").is_empty());
    }
}
