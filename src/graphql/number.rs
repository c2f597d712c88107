//! Numbers that their types cannot hold, told by name before anything of a request is done.
//!
//! The library takes whatever whole number stands where `Int` is wanted, and fails in the midst of execution if it is past
//! 32 bits: then it answers `data: null`, and with it goes what other fields of the same mutation have done. A number of
//! [`Json`](super::scalar::Json) that has lost digits it refuses without saying where it stands.
//!
//! Values are walked along their types, each once, and selections without following fragments: the work is linear in the
//! size of the request.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextParseQuery};
use async_graphql::parser::types::{ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet};
use async_graphql::registry::{MetaType, MetaTypeName, Registry};
use async_graphql::{Pos, ServerError, ServerResult, Value, Variables};
use async_trait::async_trait;

use super::failure::CODE;
use super::scalar::loses_digits;
use crate::error_code::ErrorCode;

/// The field that takes as text what `data` beside it cannot hold.
const AS_TEXT: &str = "dataJson";

/// Which operation of the document is meant.
pub(super) struct Chosen(pub(super) Option<String>);

/// Refuses requests with such numbers.
pub(super) struct Numbers;

impl ExtensionFactory for Numbers {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait]
impl Extension for Numbers {
    async fn parse_query(
        &self,
        ctx: &ExtensionContext<'_>,
        query: &str,
        variables: &Variables,
        next: NextParseQuery<'_>,
    ) -> ServerResult<ExecutableDocument> {
        let document = next.run(ctx, query, variables).await?;
        let chosen = ctx.data_unchecked::<Chosen>().0.as_deref();
        check(&ctx.schema_env.registry, &document, chosen, variables).map_err(|(fault, pos)| error(&fault, pos))?;
        Ok(document)
    }
}

/// A number that its type cannot hold.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    /// The names and numbers that lead to it, from within.
    path: Vec<String>,
    /// What `path` begins in: a variable, or an argument.
    root: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Where `Int` is wanted, past 32 bits.
    Int,
    /// In JSON, past 64 bits; whether the same can be given as text instead.
    Json { as_text: bool },
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { kind, path: vec![], root: String::new() }
    }

    fn inside(mut self, step: impl ToString) -> Self {
        self.path.push(step.to_string());
        self
    }

    fn of(self, root: String) -> Self {
        Self { root, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)?;
        if !self.path.is_empty() {
            let steps: Vec<_> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, " at '{}'", steps.join("."))?;
        }
        match self.kind {
            Kind::Int => write!(f, " is no Int: a whole number from {} to {}", i32::MIN, i32::MAX),
            Kind::Json { as_text: true } => {
                write!(f, " is a number past 64 bits, which would lose digits: '{AS_TEXT}' keeps every digit")
            }
            Kind::Json { as_text: false } => write!(f, " is a number past 64 bits, which would lose digits"),
        }
    }
}

fn error(fault: &Fault, pos: Option<Pos>) -> ServerError {
    let mut error = ServerError::new(fault.to_string(), pos);
    error.extensions.get_or_insert_default().set(CODE, ErrorCode::GraphqlValidationFailed.as_str());
    error
}

/// Lists of lists that the types of variables may be: the schema has none.
const MOST_LISTS: usize = 2;

type Checked = Result<(), (Fault, Option<Pos>)>;

fn check(registry: &Registry, document: &ExecutableDocument, chosen: Option<&str>, variables: &Variables) -> Checked {
    // Which one is meant is not said, and nothing will be done: or else each would look at all the variables.
    if chosen.is_none() && document.operations.iter().nth(1).is_some() {
        return Ok(());
    }
    for (name, operation) in document.operations.iter() {
        let is_meant = chosen.is_none_or(|chosen| name.is_some_and(|name| name == chosen));
        if is_meant {
            check_variables(registry, &operation.node, variables)?;
        }
        let root = match operation.node.ty {
            OperationType::Query => Some(registry.query_type.as_str()),
            OperationType::Mutation => registry.mutation_type.as_deref(),
            OperationType::Subscription => registry.subscription_type.as_deref(),
        };
        check_set(registry, root.and_then(|root| registry.types.get(root)), &operation.node.selection_set.node)?;
    }
    for fragment in document.fragments.values() {
        let on = registry.types.get(fragment.node.type_condition.node.on.node.as_str());
        check_set(registry, on, &fragment.node.selection_set.node)?;
    }
    Ok(())
}

fn check_variables(registry: &Registry, operation: &OperationDefinition, variables: &Variables) -> Checked {
    let mut seen = HashSet::new();
    for definition in &operation.variable_definitions {
        let (name, pos) = (&definition.node.name.node, definition.pos);
        let default = definition.node.default_value.as_ref().map(|value| &value.node);
        let of = definition.node.var_type.node.to_string();
        // Validation refuses both; until then a value is looked at once, and by few types.
        if !seen.insert(name) || of.matches('[').count() > MOST_LISTS {
            continue;
        }
        for value in variables.get(name).into_iter().chain(default) {
            check_value(registry, &of, value, false)
                .map_err(|fault| (fault.of(format!("the variable '${name}'")), Some(pos)))?;
        }
    }
    Ok(())
}

/// What stands in the document itself, of which validation tells what does not fit the schema at all.
fn check_set(registry: &Registry, parent: Option<&MetaType>, set: &SelectionSet) -> Checked {
    for item in &set.items {
        match &item.node {
            Selection::Field(field) => {
                let name = &field.node.name.node;
                let Some(known) = parent.and_then(|parent| parent.field_by_name(name)) else { continue };
                for (argument, value) in &field.node.arguments {
                    let Some(wanted) = known.args.get(argument.node.as_str()) else { continue };
                    // Variables within are looked at by themselves.
                    let Ok(literal) = value.node.clone().into_const_with(|_| Ok::<_, ()>(Value::Null)) else {
                        continue;
                    };
                    check_value(registry, &wanted.ty, &literal, false).map_err(|fault| {
                        (fault.of(format!("the argument '{}' of '{name}'", argument.node)), Some(value.pos))
                    })?;
                }
                check_set(registry, registry.concrete_type_by_name(&known.ty), &field.node.selection_set.node)?;
            }
            Selection::InlineFragment(inline) => {
                let on = inline.node.type_condition.as_ref();
                let on = on.map_or(parent, |on| registry.types.get(on.node.on.node.as_str()));
                check_set(registry, on, &inline.node.selection_set.node)?;
            }
            // Each fragment is looked at once, by itself.
            Selection::FragmentSpread(_) => {}
        }
    }
    Ok(())
}

fn check_value(registry: &Registry, of: &str, value: &Value, as_text: bool) -> Result<(), Fault> {
    match (MetaTypeName::create(of), value) {
        (MetaTypeName::NonNull(of), _) => check_value(registry, of, value, as_text),
        (MetaTypeName::List(of), Value::List(items)) => items.iter().enumerate().try_for_each(|(index, item)| {
            check_value(registry, of, item, as_text).map_err(|fault| fault.inside(index))
        }),
        // One item stands for a list of it.
        (MetaTypeName::List(of), _) => check_value(registry, of, value, as_text),
        (MetaTypeName::Named("Int"), Value::Number(number)) => {
            let whole = number.as_i64().map(i32::try_from);
            let is_past = matches!(whole, Some(Err(_))) || whole.is_none() && number.is_u64() || loses_digits(number);
            if is_past { Err(Fault::new(Kind::Int)) } else { Ok(()) }
        }
        (MetaTypeName::Named("JSON"), _) => check_json(value, as_text),
        (MetaTypeName::Named(name), Value::Object(fields)) => {
            let Some(MetaType::InputObject { input_fields, .. }) = registry.types.get(name) else { return Ok(()) };
            let as_text = input_fields.contains_key(AS_TEXT);
            fields.iter().try_for_each(|(name, field)| match input_fields.get(name.as_str()) {
                Some(known) => check_value(registry, &known.ty, field, as_text).map_err(|fault| fault.inside(name)),
                None => Ok(()),
            })
        }
        (MetaTypeName::Named(_), _) => Ok(()),
    }
}

fn check_json(value: &Value, as_text: bool) -> Result<(), Fault> {
    match value {
        Value::Number(number) if loses_digits(number) => Err(Fault::new(Kind::Json { as_text })),
        Value::List(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check_json(item, as_text).map_err(|fault| fault.inside(index))),
        Value::Object(fields) => {
            fields.iter().try_for_each(|(name, field)| check_json(field, as_text).map_err(|fault| fault.inside(name)))
        }
        Value::Null | Value::Number(_) | Value::String(_) | Value::Boolean(_) | Value::Binary(_) | Value::Enum(_) => {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;
    use async_graphql::{EmptySubscription, InputObject, Json, Object, Schema};

    use super::*;

    struct Query;

    #[derive(InputObject)]
    struct Page {
        size: Option<i32>,
        sizes: Option<Vec<i32>>,
        data: Option<Json<serde_json::Value>>,
        data_json: Option<String>,
    }

    #[derive(InputObject)]
    struct Book {
        page: Option<Page>,
        json: Option<Json<serde_json::Value>>,
    }

    #[Object]
    impl Query {
        async fn read(&self, first: Option<i32>, book: Option<Book>) -> i32 {
            drop(
                book.map(|book| (book.page.map(|page| (page.size, page.sizes, page.data, page.data_json)), book.json)),
            );
            first.unwrap_or_default()
        }

        async fn again(&self) -> Self {
            Self
        }
    }

    /// The first fault's words.
    fn fault(document: &str, variables: &str) -> Option<String> {
        let schema = Schema::build(Query, async_graphql::EmptyMutation, EmptySubscription).extension(Numbers).finish();
        let variables = Variables::from_json(serde_json::from_str(variables).unwrap());
        drop(parse_query(document).unwrap());
        let request = async_graphql::Request::new(document).variables(variables).data(Chosen(None));
        let answer = futures_util::future::FutureExt::now_or_never(schema.execute(request)).unwrap();
        let error = answer.errors.into_iter().next()?;
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get(CODE)).cloned();
        assert_eq!(code, Some(Value::from("GRAPHQL_VALIDATION_FAILED")), "{error:?}");
        Some(error.message)
    }

    #[test]
    fn a_number_past_32_bits_is_told_by_the_name_of_its_variable() {
        let range = " is no Int: a whole number from -2147483648 to 2147483647";
        let document = "query($first: Int, $book: Book) { read(first: $first, book: $book) }";
        for (variables, expected) in [
            (r#"{"first": 2147483648}"#, "the variable '$first'"),
            (r#"{"first": -2147483649}"#, "the variable '$first'"),
            (r#"{"first": 18446744073709551615}"#, "the variable '$first'"),
            (r#"{"first": 18446744073709551616}"#, "the variable '$first'"),
            (r#"{"book": {"page": {"size": 3000000000}}}"#, "the variable '$book' at 'page.size'"),
            (r#"{"book": {"page": {"sizes": [1, 3000000000]}}}"#, "the variable '$book' at 'page.sizes.1'"),
            (r#"{"book": {"page": {"sizes": 3000000000}}}"#, "the variable '$book' at 'page.sizes'"),
        ] {
            assert_eq!(fault(document, variables), Some(format!("{expected}{range}")), "{variables}");
        }
        for fits in [r#"{"first": 2147483647}"#, r#"{"first": -2147483648}"#, r#"{"first": null}"#, "{}"] {
            assert_eq!(fault(document, fits), None, "{fits}");
        }
    }

    #[test]
    fn a_literal_past_32_bits_is_told_by_the_name_of_its_argument() {
        let range = " is no Int: a whole number from -2147483648 to 2147483647";
        for (document, expected) in [
            ("{ read(first: 3000000000) }", "the argument 'first' of 'read'"),
            ("{ again { read(first: 3000000000) } }", "the argument 'first' of 'read'"),
            ("{ ...f } fragment f on Query { read(first: 3000000000) }", "the argument 'first' of 'read'"),
            ("{ ... on Query { read(first: 3000000000) } }", "the argument 'first' of 'read'"),
            ("{ ... { read(first: 3000000000) } }", "the argument 'first' of 'read'"),
            ("{ read(book: { page: { size: -3000000000 } }) }", "the argument 'book' of 'read' at 'page.size'"),
            ("query($n: Int = 3000000000) { read(first: $n) }", "the variable '$n'"),
        ] {
            assert_eq!(fault(document, "{}"), Some(format!("{expected}{range}")), "{document}");
        }
        assert_eq!(fault("query($n: Int) { read(first: $n, book: { page: { size: 7 } }) }", r#"{"n": 7}"#), None);
    }

    /// What a variable is said to be a thousand times over is looked at once: what is wrong with that, validation says.
    #[test]
    fn a_value_is_looked_at_once_whatever_the_document_makes_of_it() {
        let looked_at = |document: &str| {
            let schema =
                Schema::build(Query, async_graphql::EmptyMutation, EmptySubscription).extension(Numbers).finish();
            let variables = Variables::from_json(serde_json::json!({ "n": [[3_000_000_000_u64]] }));
            let request = async_graphql::Request::new(document).variables(variables).data(Chosen(None));
            let answer = futures_util::future::FutureExt::now_or_never(schema.execute(request)).unwrap();
            answer.errors.iter().any(|error| error.message.contains("is no Int"))
        };
        assert!(looked_at("query($n: [[Int]]) { read }"));
        assert!(!looked_at("query($n: String, $n: [[Int]]) { read }"));
        assert!(!looked_at("query($n: [[[Int]]]) { read }"));
        assert!(!looked_at("query A($n: [[Int]]) { read } query B($n: [[Int]]) { read }"));
    }

    #[test]
    fn a_number_of_json_past_64_bits_is_told_with_its_place_and_what_keeps_it() {
        let document = "query($book: Book) { read(book: $book) }";
        let data = r#"{"book": {"page": {"data": {"order": [{"total": 18446744073709551616}]}}}}"#;
        let message = "the variable '$book' at 'page.data.order.0.total' is a number past 64 bits, which would lose \
                       digits: 'dataJson' keeps every digit";
        assert_eq!(fault(document, data).as_deref(), Some(message));
        let other = fault(document, r#"{"book": {"json": [18446744073709551616]}}"#).unwrap();
        assert_eq!(other, "the variable '$book' at 'json.0' is a number past 64 bits, which would lose digits");
        let literal = fault("{ read(book: { page: { data: { n: -18446744073709551616 } } }) }", "{}").unwrap();
        assert!(literal.starts_with("the argument 'book' of 'read' at 'page.data.n' is a number past"), "{literal}");
        assert_eq!(fault(document, r#"{"book": {"page": {"data": [18446744073709551615, 1e3, 0.5]}}}"#), None);
    }

    #[test]
    fn the_type_of_a_variable_is_that_of_the_operation_that_is_meant() {
        let registry = Schema::new(Query, async_graphql::EmptyMutation, EmptySubscription);
        drop(registry);
        let document = "query a($v: Int) { read(first: $v) } query b($v: Book) { read(book: $v) }";
        let schema = Schema::build(Query, async_graphql::EmptyMutation, EmptySubscription).extension(Numbers).finish();
        let asked = |operation: &str, variables: &str| {
            let variables = Variables::from_json(serde_json::from_str(variables).unwrap());
            let request = async_graphql::Request::new(document)
                .operation_name(operation)
                .variables(variables)
                .data(Chosen(Some(operation.to_owned())));
            let answer = futures_util::future::FutureExt::now_or_never(schema.execute(request)).unwrap();
            answer.errors.into_iter().next().map(|error| error.message)
        };
        assert!(asked("a", r#"{"v": 3000000000}"#).unwrap().starts_with("the variable '$v' is no Int"));
        assert!(asked("b", r#"{"v": {"page": {"size": 3000000000}}}"#).unwrap().contains("at 'page.size'"));
        assert_eq!(asked("a", r#"{"v": 3}"#), None);
    }
}
