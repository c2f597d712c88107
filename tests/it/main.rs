//! Tests that go through more than one module, or hold us to what others run.

mod canonical_json;
