//! Cursors: what is no cursor of a list is refused, and what is one is what the list would write. The lines of
//! the input are a cursor, a number and a text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::graphql::List;
use tidings::projections::Key;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let (Some(text), Some(number), Some(rest)) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(number) = number.parse() else { return };
    let list = List::new(None, "deliveries", &[("status", Some("PENDING".into()))]);
    if let Some(key) = list.key(text) {
        assert_eq!(list.cursor(&key), text);
    }
    let key = Key(number, rest.to_owned());
    let cursor = list.cursor(&key);
    assert_eq!(list.key(&cursor), Some(key));
    let other = List::new(None, "deliveries", &[("status", Some("FAILED".into()))]);
    assert_eq!(other.key(&cursor), None);
});
