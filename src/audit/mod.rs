//! The audit log: which codes there are.
//!
//! A row for every change of a tenant or a subscription, none for a delivery (S30). The rows are a read model:
//! `projections` folds them from the log and answers queries about them.

pub use crate::domain::audit::Code;
