//! Tidings.
fn main() {}
