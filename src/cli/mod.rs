//! The command-line front.

pub mod certificates;
pub mod listen;
