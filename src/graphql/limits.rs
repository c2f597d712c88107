//! How much one document may ask for.
//!
//! The library's checks walk every fragment at every spread, so that a few nested fragments cost minutes before its
//! limits are even compared. [`measure`] visits each fragment once; what it lets through is small for all later walks.

use std::collections::HashMap;

use async_graphql::parser::types::{ExecutableDocument, OperationDefinition, Selection, SelectionSet};
use async_graphql::{Name, ObjectType, SchemaBuilder, SubscriptionType};

/// The most selections and directives of a document with all its fragments spread out, over all its operations.
pub(super) const MAX_SELECTIONS: usize = 5_000;
/// The most fragments that a document may define. Bounds how deep [`measure`] can recurse.
const MAX_FRAGMENTS: usize = 100;
/// The deepest nesting of selections, fragment spreads included; standard introspection needs 16.
const MAX_LEVELS: usize = 32;
/// The most bytes of a document. Data belongs into variables.
pub(super) const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// The most errors that an answer lists.
pub(super) const MAX_ERRORS: usize = 20;

const MAX_DEPTH: usize = 15;
const MAX_COMPLEXITY: usize = 5_000;
const MAX_ALIASES: usize = 50;
const MAX_DIRECTIVES: usize = 4;

/// The deepest nesting of brackets of any kind. The parser calls itself for each, and the stack has an end.
const MAX_BRACKETS: usize = 128;
/// How deep introspection's lists may stand within each other, beside `types`: standard introspection has them once. Types
/// lead to types, and each level multiplies what is told by a dozen.
const MAX_INTROSPECTION_LISTS: usize = 1;
/// What introspection's lists count for, in selections: the library weighs them as single fields.
const INTROSPECTION_LISTS: [(&str, usize); 5] =
    [("types", 1_500), ("fields", 100), ("inputFields", 100), ("interfaces", 100), ("possibleTypes", 100)];

/// Sets the library's own limits.
pub(super) fn apply<Q: ObjectType, M: ObjectType, S: SubscriptionType>(
    builder: SchemaBuilder<Q, M, S>,
) -> SchemaBuilder<Q, M, S> {
    builder
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_recursive_depth(MAX_LEVELS)
        .limit_aliases(MAX_ALIASES)
        .limit_directives(MAX_DIRECTIVES)
}

/// Why a document is not even looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooComplex {
    #[error("the document expands to more than {MAX_SELECTIONS} selections")]
    Selections,
    #[error("the document defines more than {MAX_FRAGMENTS} fragments")]
    Fragments,
    #[error("the document nests deeper than {MAX_LEVELS} levels")]
    Levels,
    #[error("introspection goes from type to type more than {MAX_INTROSPECTION_LISTS} time")]
    Introspection,
    #[error("the document nests more than {MAX_BRACKETS} brackets")]
    Brackets,
    #[error("the fragment '{0}' spreads itself")]
    Cycle(String),
}

/// Whether the text may be parsed: how deep its brackets stand within each other, strings and comments left out.
pub(super) fn check_brackets(text: &str) -> Result<(), TooComplex> {
    let (mut rest, mut open) = (text.as_bytes(), 0_usize);
    while let [first, behind @ ..] = rest {
        rest = match first {
            b'"' => behind_string(rest),
            b'#' => behind.split_at(behind.iter().position(|byte| *byte == b'\n').unwrap_or(behind.len())).1,
            _ => behind,
        };
        match first {
            b'{' | b'[' | b'(' => open += 1,
            b'}' | b']' | b')' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_BRACKETS {
            return Err(TooComplex::Brackets);
        }
    }
    Ok(())
}

/// What follows the string with which the text begins.
fn behind_string(text: &[u8]) -> &[u8] {
    let quotes: &[u8] = if text.starts_with(b"\"\"\"") { b"\"\"\"" } else { b"\"" };
    let mut rest = &text[quotes.len()..];
    while !rest.is_empty() && !rest.starts_with(quotes) {
        rest = rest.get(if rest[0] == b'\\' { 2.. } else { 1.. }).unwrap_or_default();
    }
    rest.get(quotes.len()..).unwrap_or_default()
}

/// Counts what the document expands to, in time linear to its length.
pub(super) fn measure(document: &ExecutableDocument) -> Result<usize, TooComplex> {
    if document.fragments.len() > MAX_FRAGMENTS {
        return Err(TooComplex::Fragments);
    }
    let mut measuring = Measuring { document, known: HashMap::new() };
    let mut size = 0;
    for (_, operation) in document.operations.iter() {
        let directives = operation.node.directives.len();
        size = within(size + directives + measuring.set(&operation.node.selection_set.node, 0)?.selections)?;
    }
    // Fragments that nothing uses are validated too.
    for name in document.fragments.keys() {
        measuring.fragment(name, 0)?;
    }
    Ok(size)
}

/// Whether a subscription asks for one field. The library would pass over fragments, and mix the items of several.
pub(super) fn has_one_root(operation: &OperationDefinition) -> bool {
    let [selection] = operation.selection_set.node.items.as_slice() else { return false };
    matches!(selection.node, Selection::Field(_))
}

/// How many fields of the root an operation asks for, fragments spread out. Only for what [`measure`] lets through.
pub(super) fn root_fields(document: &ExecutableDocument, operation: &OperationDefinition) -> usize {
    let mut sets = vec![&operation.selection_set.node];
    let mut fields = 0;
    while let Some(set) = sets.pop() {
        for item in &set.items {
            match &item.node {
                Selection::Field(_) => fields += 1,
                Selection::InlineFragment(inline) => sets.push(&inline.node.selection_set.node),
                Selection::FragmentSpread(spread) => {
                    let fragment = document.fragments.get(&spread.node.fragment_name.node);
                    sets.extend(fragment.map(|fragment| &fragment.node.selection_set.node));
                }
            }
        }
    }
    fields
}

fn within(size: usize) -> Result<usize, TooComplex> {
    if size > MAX_SELECTIONS { Err(TooComplex::Selections) } else { Ok(size) }
}

/// What a selection comes to.
#[derive(Clone, Copy, Default)]
struct Size {
    selections: usize,
    /// How deep introspection's lists stand within each other.
    lists: usize,
}

impl Size {
    /// The size of a field around this.
    fn of_field(self, name: &str) -> Result<Self, TooComplex> {
        let Some((_, weight)) = INTROSPECTION_LISTS.iter().find(|(list, _)| *list == name) else { return Ok(self) };
        let lists = self.lists + usize::from(name != "types");
        if lists > MAX_INTROSPECTION_LISTS {
            return Err(TooComplex::Introspection);
        }
        Ok(Self { selections: self.selections + weight, lists })
    }
}

struct Measuring<'a> {
    document: &'a ExecutableDocument,
    /// `None` while the fragment is being measured.
    known: HashMap<&'a Name, Option<Size>>,
}

impl<'a> Measuring<'a> {
    fn set(&mut self, set: &'a SelectionSet, level: usize) -> Result<Size, TooComplex> {
        if level > MAX_LEVELS {
            return Err(TooComplex::Levels);
        }
        let mut total = Size::default();
        for item in &set.items {
            let inside = match &item.node {
                Selection::Field(field) => {
                    self.set(&field.node.selection_set.node, level + 1)?.of_field(&field.node.name.node)?
                }
                Selection::InlineFragment(inline) => self.set(&inline.node.selection_set.node, level + 1)?,
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node, level + 1)?,
            };
            total.selections = within(total.selections + 1 + item.node.directives().len() + inside.selections)?;
            total.lists = total.lists.max(inside.lists);
        }
        Ok(total)
    }

    fn fragment(&mut self, name: &'a Name, level: usize) -> Result<Size, TooComplex> {
        match self.known.get(name) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(TooComplex::Cycle(name.chars().take(64).collect())),
            None => {}
        }
        // A spread of nothing is for validation to refuse.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Size::default()) };
        self.known.insert(name, None);
        let mut size = self.set(&fragment.node.selection_set.node, level)?;
        size.selections += fragment.node.directives.len();
        self.known.insert(name, Some(size));
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    fn size(document: &str) -> Result<usize, TooComplex> {
        measure(&parse_query(document).unwrap())
    }

    #[test]
    fn selections_are_counted_with_fragments_spread_out() {
        assert_eq!(size("{ a b { c } }"), Ok(3));
        assert_eq!(size("{ ...f ...f } fragment f on Query { a b }"), Ok(6));
        assert_eq!(size("{ a @skip(if: true) ... @include(if: true) { b } }"), Ok(5));
        assert_eq!(size("query a { x } query b { y }"), Ok(2));
    }

    #[test]
    fn introspection_counts_for_what_it_tells_and_does_not_go_round() {
        assert_eq!(size("{ __schema { types { name fields { name } } } }"), Ok(5 + 1_500 + 100));
        let round = "{ __schema { types { ...t } } } fragment t on __Type { fields { type { ...u } } }
            fragment u on __Type { ofType { interfaces { name } } }";
        assert_eq!(size(round), Err(TooComplex::Introspection));
        assert_eq!(
            size("{ a: __type(name: \"Query\") { fields { type { fields { name } } } } }"),
            Err(TooComplex::Introspection)
        );
        let schema = "{ a: __schema { types { name } } b: __schema { types { name } } c: __schema { types { name } } d: __schema { types { name } } }";
        assert_eq!(size(schema), Err(TooComplex::Selections));
    }

    #[test]
    fn brackets_are_counted_outside_of_strings_and_comments() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (text, checked) in [
            (nested(MAX_BRACKETS), Ok(())),
            (nested(MAX_BRACKETS + 1), Err(TooComplex::Brackets)),
            (nested(1).repeat(1_000), Ok(())),
            (format!("{{ a(b: \"{}\") }}", "{".repeat(500)), Ok(())),
            (format!("\"\\\"{}\"", "{".repeat(500)), Ok(())),
            (format!("\"\"\" \" {} \"\"\"", "{".repeat(500)), Ok(())),
            (format!("# {}", "{".repeat(500)), Ok(())),
            (format!("# a\n{}", "{".repeat(500)), Err(TooComplex::Brackets)),
            (format!("\"\"{}", "{".repeat(500)), Err(TooComplex::Brackets)),
            ("\"\\".into(), Ok(())),
            ("\"\"\"".into(), Ok(())),
        ] {
            assert_eq!(check_brackets(&text), checked, "{text}");
        }
    }

    #[test]
    fn root_fields_are_counted_through_fragments() {
        let document =
            parse_query("mutation { a { b c } ...f ... { d ...f } } fragment f on Mutation { e g { h } }").unwrap();
        let (_, operation) = document.operations.iter().next().unwrap();
        assert_eq!(root_fields(&document, &operation.node), 6);
    }

    #[test]
    fn a_fragment_bomb_is_refused_by_count() {
        let levels = |depth: usize, width: usize| {
            let fragments: String = (0..depth)
                .map(|level| {
                    format!("fragment f{level} on Query {{ {} }} ", format!("...f{} ", level + 1).repeat(width))
                })
                .collect();
            format!("{{ ...f0 }} {fragments} fragment f{depth} on Query {{ viewer {{ scopes }} }}")
        };
        assert_eq!(size(&levels(22, 2)), Err(TooComplex::Selections));
        assert_eq!(size(&levels(5, 40)), Err(TooComplex::Selections));
        assert_eq!(size(&levels(25, 60)), Err(TooComplex::Selections));
        assert_eq!(size(&levels(40, 1)), Err(TooComplex::Levels));
    }

    #[test]
    fn circles_and_too_many_fragments_are_refused() {
        assert_eq!(
            size("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }"),
            Err(TooComplex::Cycle("a".into()))
        );
        let many: String = (0..=MAX_FRAGMENTS).map(|n| format!("fragment f{n} on Query {{ a }} ")).collect();
        assert_eq!(size(&format!("{{ a }} {many}")), Err(TooComplex::Fragments));
    }

    #[test]
    fn a_flood_of_directives_or_operations_is_counted() {
        let directives = "@skip(if: false) ".repeat(MAX_SELECTIONS);
        assert_eq!(size(&format!("{{ a {directives} }}")), Err(TooComplex::Selections));
        let operations: String = (0..=MAX_SELECTIONS).map(|n| format!("query q{n} {{ a }} ")).collect();
        assert_eq!(size(&operations), Err(TooComplex::Selections));
    }
}
