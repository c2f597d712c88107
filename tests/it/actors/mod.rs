//! The actors as a whole: over the log in memory, in paused time, against a scripted endpoint.

mod schedule;
