//! What is recorded of the operator's keys.

use serde::{Deserialize, Serialize};

/// Another key of the operator's seals from now on, and what is sealed under others is being sealed anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekRotated {
    /// The ids of the keys that rows were under.
    pub from: Vec<String>,
    /// The id of the one that seals.
    pub to: String,
}
