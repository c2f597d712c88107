//! Filters: the matcher against one that tries every way. The filter is the first line of the input, the type the second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidings::domain::filter::{EventType, Filter};

fuzz_target!(|text: &str| {
    let Some(texts) = text.split_once('\n') else { return };
    let (filter, event_type) = (Filter::parse(texts.0), EventType::parse(texts.1));
    if let Ok(event_type) = &event_type {
        assert_eq!(event_type.as_str(), texts.1);
        let itself = Filter::parse(texts.1).expect("a type that is known is a filter for itself");
        assert!(itself.is_exact() && itself.matches(event_type));
    }
    let (Ok(filter), Ok(event_type)) = (filter, event_type) else { return };
    assert_eq!(filter.as_str(), texts.0);
    let (glob, name): (Vec<_>, Vec<_>) = (texts.0.split('.').collect(), texts.1.split('.').collect());
    // Every way is many where there are many `**`.
    if glob.len() <= 8 && name.len() <= 10 {
        assert_eq!(filter.matches(&event_type), fits(&glob, &name), "{} {}", texts.0, texts.1);
    }
});

fn fits(glob: &[&str], name: &[&str]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"**", glob)), _) => (0..=name.len()).any(|skipped| fits(glob, &name[skipped..])),
        (Some((first, glob)), Some((own, name))) => (*first == "*" || first == own) && fits(glob, name),
        (None, Some(_)) | (Some(_), None) => false,
    }
}
