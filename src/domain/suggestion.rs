//! What filters were meant to be that pick nothing.
//!
//! An event type that nobody has registered yet may be filtered for. So such a filter is no mistake in itself; but mostly
//! one is misspelt, and what it was meant to be is near.

use super::filter::{EventType, Filter, Segment};

/// The most suggestions for one filter.
const MAX_SUGGESTIONS: usize = 3;

/// Whether the filter picks none of the types.
pub fn picks_nothing<'a>(filter: &Filter, types: impl IntoIterator<Item = &'a EventType>) -> bool {
    !types.into_iter().any(|event_type| filter.matches(event_type))
}

/// The filters next to this one that do pick some of the types, the nearest first: the same stars in the same places, and
/// at most a third of all letters are others.
pub fn nearest<'a>(filter: &Filter, types: impl IntoIterator<Item = &'a EventType>) -> Vec<Filter> {
    let letters = filter.as_str().chars().count();
    let mut near: Vec<_> = types
        .into_iter()
        .filter_map(|event_type| like(filter, event_type))
        .map(|found| (distance(filter.as_str(), found.as_str()), found))
        .filter(|(distance, _)| *distance * 3 <= letters)
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().map(|(_, found)| found).take(MAX_SUGGESTIONS).collect()
}

/// The filter that picks the type and has its stars where this one has them.
fn like(filter: &Filter, event_type: &EventType) -> Option<Filter> {
    let pattern: Vec<_> = filter.segments().collect();
    let names: Vec<_> = event_type.segments().collect();
    let open = pattern.last() == Some(&Segment::Any);
    let fits = if open { pattern.len() <= names.len() + 1 } else { pattern.len() == names.len() };
    let written = |(index, segment): (usize, &Segment<'_>)| match segment {
        Segment::Name(_) => names.get(index).map(|name| (*name).to_owned()),
        Segment::One => Some("*".to_owned()),
        Segment::Any => Some("**".to_owned()),
    };
    let segments: Option<Vec<_>> = pattern.iter().enumerate().map(written).collect();
    let found = Filter::parse(&segments.filter(|_| fits)?.join(".")).ok()?;
    found.matches(event_type).then_some(found)
}

/// How many letters are to be put in, taken out or exchanged to make one text of the other; case counts for nothing.
fn distance(one: &str, other: &str) -> usize {
    let lower = |text: &str| text.to_ascii_lowercase().chars().collect::<Vec<_>>();
    let (one, other) = (lower(one), lower(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, against) in other.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != against);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestions(text: &str) -> Vec<String> {
        let types = ["user.created", "user.updated", "user.deleted", "role.changed", "platform.saml.provider.enabled"]
            .map(|name| EventType::parse(name).unwrap());
        let filter = Filter::parse(text).unwrap();
        assert!(picks_nothing(&filter, &types), "{text}");
        nearest(&filter, &types).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_filter_that_picks_nothing_is_told_what_it_may_have_been_meant_to_be() {
        assert_eq!(suggestions("user.create"), ["user.created"]);
        assert_eq!(suggestions("users.*"), ["user.*"]);
        assert_eq!(suggestions("plattform.**"), ["platform.**"]);
        assert_eq!(suggestions("platform.saml.*.enable"), ["platform.saml.*.enabled"]);
        assert_eq!(suggestions("invoice.paid"), Vec::<String>::new());
        assert_eq!(suggestions("user"), Vec::<String>::new());
        assert_eq!(suggestions("platform.saml"), Vec::<String>::new());
    }

    #[test]
    fn upper_and_lower_case_are_a_mistake_that_is_found() {
        let types = [EventType::parse("User.Created").unwrap()];
        let filter = Filter::parse("user.created").unwrap();
        assert!(picks_nothing(&filter, &types));
        assert_eq!(nearest(&filter, &types)[0].as_str(), "User.Created");
    }

    #[test]
    fn a_distance_is_the_number_of_changes() {
        for (one, other, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(one, other), expected);
            assert_eq!(distance(other, one), expected);
        }
    }
}
