//! What stands outside the program: endpoints and name servers, as real servers on loopback.

pub(crate) mod candidates;
pub(crate) mod certificates;
pub(crate) mod delivery;
pub(crate) mod failing_keys;
pub(crate) mod hostile;
pub(crate) mod name_server;
pub(crate) mod receiver;
pub(crate) mod server;
pub(crate) mod simulation;
pub(crate) mod stored_log;
pub(crate) mod watched_store;
