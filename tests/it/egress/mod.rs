//! What may be reached, and what may not: URLs, names and what they resolve to, and every way out of the program.

mod answers;
mod configuration;
mod names;
mod paths;
mod table;
