//! The tables, each with the projection that owns it.

use super::projection::Name;

/// One table. Statements name no columns: they copy or compare whole rows between files of the same version.
pub(super) struct Table {
    pub(super) owner: Name,
    pub(super) name: &'static str,
    /// How many of its first columns are its key.
    pub(super) key: usize,
    /// Its rows, by key.
    pub(super) rows: &'static str,
    /// Empties it.
    pub(super) clear: &'static str,
    /// Fills it from the attached file `built`.
    pub(super) copy: &'static str,
}

macro_rules! table {
    ($owner:ident, $name:literal, $key:literal, $order:literal) => {
        Table {
            owner: Name::$owner,
            name: $name,
            key: $key,
            rows: concat!("SELECT * FROM ", $name, " ORDER BY ", $order),
            clear: concat!("DELETE FROM main.", $name),
            copy: concat!("INSERT INTO main.", $name, " SELECT * FROM built.", $name, " ORDER BY ", $order),
        }
    };
}

/// Every table that is folded from the log.
pub(super) const TABLES: [Table; 14] = [
    table!(Tenants, "tenant", 1, "position"),
    table!(Tenants, "api_key", 1, "position"),
    table!(Tenants, "user", 1, "position"),
    table!(Tenants, "event_type", 2, "tenant, name"),
    table!(Tenants, "erasure", 1, "position"),
    table!(Webhooks, "webhook", 1, "position"),
    table!(Webhooks, "deleted_webhook", 1, "position"),
    table!(Messages, "message", 1, "position"),
    table!(Deliveries, "delivery", 1, "position"),
    table!(Deliveries, "attempt", 2, "delivery, number"),
    table!(Deliveries, "last_delivery", 1, "subscription"),
    table!(Deliveries, "statistic", 4, "subject, grain, start_ms, measure"),
    table!(Audit, "audit", 1, "position"),
    table!(Audit, "audit_subscription", 1, "id"),
];
