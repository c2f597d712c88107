//! From a request's text to an answer's bytes: what every transport calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{OperationDefinition, OperationType, VariableDefinition};
use async_graphql::{Request, Response, ServerError, Value, Variables};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::Deserialize;
use serde_json::json;

use super::caller::Caller;
use super::charge::{Charge, Paid, REFUSED_POINTS, Weight, full_at};
use super::failure::{CODE, RETRY_AFTER_SECONDS};
use super::item::{self, ITEM_LIMIT, ItemClock};
use super::limits::{self, MAX_DOCUMENT_BYTES, MAX_ERRORS};
use super::step_up::{ACR_VALUES, MAX_AGE};
use super::{Schema, loader, number};
use crate::authentication::Principal;
use crate::clock::Clock;
use crate::domain::id::RequestId;
use crate::error_code::ErrorCode;
use crate::execute::history::Budget;
use crate::rate_limit::{Standing, Throttled};

/// How long a query may take.
const QUERY_LIMIT: Duration = Duration::from_secs(10);
/// How long a mutation may take: longer than the longest test delivery.
const MUTATION_LIMIT: Duration = Duration::from_secs(60);

/// A request as it came in.
#[derive(Deserialize)]
pub struct Incoming {
    query: String,
    #[serde(default, rename = "operationName")]
    operation_name: Option<String>,
    #[serde(default)]
    variables: Option<Variables>,
    #[serde(default)]
    #[expect(dead_code, reason = "must be an object if it is there; nothing of it is used")]
    extensions: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Documents and variables may hold secrets.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A request that was parsed and is small enough to be executed.
pub struct Prepared {
    request: Request,
    kind: Kind,
    /// What it costs beside what the library weighs.
    weight: Weight,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes nothing, whichever of its operations is meant.
    Query,
    /// It may change something.
    Mutation,
    /// It is answered again and again.
    Subscription,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A JSON object.
    pub body: Vec<u8>,
    /// What a transport must know of it.
    pub outcome: Outcome,
    /// What `WWW-Authenticate` says, if somebody is to prove themself again (RFC 9470).
    pub challenge: Option<String>,
    /// In how many seconds it is worth to ask again, if it is worth it only then.
    pub retry_after_s: Option<u32>,
    /// How the caller's budget stands, if anything was taken from it.
    pub standing: Option<Standing>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed; single fields may have failed.
    Executed,
    /// It was executed, and every field was turned away for now: too much is under way, or the disk is full.
    TurnedAway(ErrorCode),
    /// It was not executed.
    Refused(ErrorCode),
}

impl Incoming {
    /// Reads the body of a POST: one JSON object.
    ///
    /// # Errors
    /// The answer to anything else.
    pub fn from_json(body: &[u8]) -> Result<Self, Answer> {
        // Serde would take an array for the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Answer::refused(
                ErrorCode::BadRequest,
                "the body must be one JSON object; batches are not taken",
            ));
        }
        serde_json::from_slice(body).map_err(|error| {
            Answer::refused(ErrorCode::BadRequest, &format!("the body is not a GraphQL request: {error}"))
        })
    }

    /// Reads the parameters of a GET.
    ///
    /// # Errors
    /// The answer to parameters of another form.
    pub fn from_parameters(parameters: impl IntoIterator<Item = (String, String)>) -> Result<Self, Answer> {
        let (mut query, mut operation_name, mut variables, mut extensions) = (None, None, None, None);
        for (name, value) in parameters {
            match name.as_str() {
                "query" => query = Some(value),
                "operationName" => operation_name = Some(value).filter(|name| !name.is_empty()),
                "variables" => variables = Some(value).filter(|text| !text.is_empty()),
                "extensions" => extensions = Some(value).filter(|text| !text.is_empty()),
                _ => {}
            }
        }
        let query = query.ok_or_else(|| Answer::refused(ErrorCode::BadRequest, "the parameter 'query' is missing"))?;
        Ok(Self { query, operation_name, variables: parameter(variables)?, extensions: parameter(extensions)? })
    }
}

fn parameter<T: serde::de::DeserializeOwned>(text: Option<String>) -> Result<Option<T>, Answer> {
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| Answer::refused(ErrorCode::BadRequest, &format!("a parameter is not a JSON object: {error}")))
}

/// Parses a request and measures it.
///
/// # Errors
/// The answer to a document that does not parse or asks for too much.
pub fn prepare(incoming: Incoming) -> Result<Prepared, Answer> {
    let Incoming { query, operation_name, variables, .. } = incoming;
    if query.len() > MAX_DOCUMENT_BYTES {
        let message = format!("the document has {} bytes; at most {MAX_DOCUMENT_BYTES} are allowed", query.len());
        return Err(Answer::refused(ErrorCode::QueryTooLarge, &message));
    }
    let too_complex = |error: limits::TooComplex| Answer::refused(ErrorCode::QueryTooComplex, &error.to_string());
    limits::check_brackets(&query).map_err(too_complex)?;
    let mut request = Request::new(query).variables(variables.unwrap_or_default());
    request.operation_name = operation_name.clone();
    let document = request.parsed_query().map_err(|error| unparsed(&error))?;
    let size = limits::measure(document).map_err(too_complex)?;
    let chosen = |name: Option<&str>| operation_name.as_deref().is_none_or(|wanted| name == Some(wanted));
    let operations: Vec<_> = document
        .operations
        .iter()
        .filter(|(name, _)| chosen(name.map(|name| name.as_str())))
        .map(|(_, operation)| &operation.node)
        .collect();
    let kind = kind(&operations)?;
    let roots = |operation: &&OperationDefinition| limits::root_fields(document, operation);
    let mutations = if kind == Kind::Mutation { operations.iter().map(roots).max().unwrap_or(0) } else { 0 };
    let definitions: Vec<_> = match operations.as_slice() {
        [operation] => operation.variable_definitions.iter().map(|definition| definition.node.clone()).collect(),
        _ => vec![],
    };
    for definition in definitions {
        complete(&mut request.variables, definition)?;
    }
    Ok(Prepared { request, kind, weight: Weight { selections: size, mutations } })
}

fn kind(operations: &[&OperationDefinition]) -> Result<Kind, Answer> {
    let any = |ty| operations.iter().any(|operation| operation.ty == ty);
    if any(OperationType::Mutation) {
        return Ok(Kind::Mutation);
    }
    if !any(OperationType::Subscription) {
        return Ok(Kind::Query);
    }
    match operations {
        [operation] if limits::has_one_root(operation) => Ok(Kind::Subscription),
        _ => {
            let message = "a subscription asks for one field of the root, and not by a fragment";
            Err(Answer::refused(ErrorCode::GraphqlValidationFailed, message))
        }
    }
}

/// Does with a variable that was left out what the library does not.
///
/// It looks at a variable that must be there only where the variable is used, in the midst of execution. And it takes a
/// left-out `$first` for an error when it weighs a list; all our numbers mean the same by null as by absence.
fn complete(variables: &mut Variables, definition: VariableDefinition) -> Result<(), Answer> {
    let VariableDefinition { name, var_type, default_value, .. } = definition;
    let (name, of) = (name.node, var_type.node);
    let given = variables.get(&name).or(default_value.as_ref().map(|value| &value.node));
    if !of.nullable && given.is_none_or(|value| *value == Value::Null) {
        let message = format!("the variable '${name}' of type '{of}' is missing");
        return Err(Answer::refused(ErrorCode::GraphqlValidationFailed, &message));
    }
    if given.is_none() && of.to_string() == "Int" {
        variables.insert(name, Value::Null);
    }
    Ok(())
}

/// The parser draws the document with the place marked; a client needs the place and what was expected there.
fn unparsed(error: &ServerError) -> Answer {
    let expected = error.message.rsplit_once("= ").map_or("", |(_, expected)| expected).lines().next().unwrap_or("");
    let message = match expected {
        "" => "the document does not parse".to_owned(),
        expected => format!("the document does not parse: {expected}"),
    };
    let mut parsed = ServerError::new(message, None);
    parsed.locations.clone_from(&error.locations);
    Answer::written(
        &json!({ "errors": [with_code(parsed, ErrorCode::GraphqlParseFailed)] }),
        Outcome::Refused(ErrorCode::GraphqlParseFailed),
    )
}

impl Prepared {
    /// What it does.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Schema {
    /// Carries out a request that is answered once.
    pub async fn execute(&self, prepared: Prepared, caller: Caller) -> Answer {
        let limit = match prepared.kind {
            Kind::Query => QUERY_LIMIT,
            Kind::Mutation => MUTATION_LIMIT,
            Kind::Subscription => {
                let message = "a subscription needs 'accept: text/event-stream', or a WebSocket";
                return Answer::refused(ErrorCode::BadRequest, message);
            }
        };
        let bill = self.bill(&prepared, &caller);
        let budget = Arc::new(Budget::default());
        let loader = loader::loader(self.context(), &budget);
        let chosen = number::Chosen(prepared.request.operation_name.clone());
        let request = prepared.request.data(caller).data(loader).data(budget).data(chosen);
        let request = request.data(Arc::clone(&bill.charge));
        match tokio::time::timeout(limit, self.0.execute(request)).await {
            Ok(response) => bill.settle(response),
            Err(_) => {
                tracing::warn!("a request was given up after {limit:?}");
                let message =
                    format!("the request took longer than {} s; what it was to do may still happen", limit.as_secs());
                let mut answer = Answer::refused(ErrorCode::Overloaded, &message);
                answer.outcome = Outcome::TurnedAway(ErrorCode::Overloaded);
                answer
            }
        }
    }
}

impl Schema {
    /// Answers a subscription, until the answers are dropped. An answer that is refused is the last one.
    pub fn subscribe(&self, prepared: Prepared, caller: Caller) -> BoxStream<'static, Answer> {
        let bill = self.bill(&prepared, &caller);
        let budget = Arc::new(Budget::default());
        let loader = loader::loader(self.context(), &budget);
        // An item shows how things stand when it comes, not how they stood at an earlier one.
        loader.enable_all_cache(false);
        let chosen = number::Chosen(prepared.request.operation_name.clone());
        let request = prepared.request.data(caller).data(loader).data(budget).data(chosen);
        let clock = ItemClock::new();
        let request = request.data(Arc::clone(&bill.charge)).data(Arc::clone(&clock));
        let items = item::bounded(self.0.execute_stream(request), clock, Arc::clone(&bill.charge));
        items.map(move |response| response.map_or_else(overdue, |response| bill.settle_item(response))).boxed()
    }

    /// Whether the caller has any points left; else the answer.
    pub fn enter(&self, caller: &Principal) -> Result<(), Answer> {
        self.limits().enter(&caller.credential.subject()).map_err(|throttled| Answer::throttled(&throttled))
    }

    /// Takes what a refused document costs, and says so in the answer.
    pub fn charge_refused(&self, caller: &Principal, mut answer: Answer) -> Answer {
        answer.standing = Some(self.limits().charge(&caller.credential.subject(), REFUSED_POINTS));
        answer
    }

    fn bill(&self, prepared: &Prepared, caller: &Caller) -> Bill {
        let charge = Charge::new(self.limits(), caller.principal.credential.subject(), prepared.weight);
        Bill { charge, request: caller.request, clock: Arc::clone(&self.context().clock) }
    }
}

fn overdue() -> Answer {
    tracing::warn!("an item of a live stream was given up after {ITEM_LIMIT:?}");
    let message = format!("an item took longer than {} s; go on behind the last cursor", ITEM_LIMIT.as_secs());
    Answer::refused(ErrorCode::Overloaded, &message)
}

/// Whose operation it is and what it costs.
struct Bill {
    charge: Arc<Charge>,
    request: RequestId,
    clock: Arc<dyn Clock>,
}

impl Bill {
    fn settle(&self, response: Response) -> Answer {
        let mut answer = finish(response, self.request, self.cost());
        let is_refused = matches!(answer.outcome, Outcome::Refused(_));
        answer.standing = match (self.charge.paid(), self.charge.throttled()) {
            (Some(paid), _) => Some(paid.standing),
            (None, Some(throttled)) => {
                answer.retry_after_s = Some(throttled.retry_after_s());
                Some(throttled.standing)
            }
            // It was not even weighed.
            (None, None) => is_refused.then(|| self.charge.refuse()),
        };
        answer
    }

    /// Without an item there is no place in one for the errors: they are the request's.
    fn settle_item(&self, mut response: Response) -> Answer {
        if response.data == Value::Null {
            response.errors.iter_mut().for_each(|error| error.path.clear());
        }
        self.settle(response)
    }

    fn cost(&self) -> Option<Cost> {
        let Paid { cost, standing } = self.charge.paid()?;
        let reset_at = full_at(&*self.clock, &standing).to_rfc3339_ms();
        Some(Cost { requested: cost, remaining: standing.remaining, reset_at })
    }
}

fn finish(mut response: Response, request: RequestId, cost: Option<Cost>) -> Answer {
    response.errors.truncate(MAX_ERRORS);
    let errors: Vec<_> = response.errors.into_iter().map(|error| coded(error, request)).collect();
    let code = |error: &ServerError| {
        let code = error.extensions.as_ref().and_then(|extensions| extensions.get(CODE));
        ErrorCode::ALL.iter().copied().find(|known| code == Some(&Value::from(known.as_str())))
    };
    let executed = response.data != Value::Null || errors.iter().any(|error| !error.path.is_empty());
    let outcome = match errors.first() {
        Some(first) if !executed => Outcome::Refused(code(first).unwrap_or(ErrorCode::Internal)),
        Some(_) if is_empty(&response.data) => turned_away(errors.iter().map(code)),
        Some(_) | None => Outcome::Executed,
    };
    let parts = Parts {
        // A request that was not executed has no data, not even null.
        data: (errors.is_empty() || executed).then_some(&response.data),
        errors: (!errors.is_empty()).then_some(&errors),
        extensions: cost.map(|cost| AnswerExtensions { cost }),
    };
    let body = serde_json::to_vec(&parts);
    let challenge = errors.iter().find_map(challenge);
    let body = body.expect("an answer has string keys");
    Answer { body, outcome, challenge, retry_after_s: retry_after_s(outcome), standing: None }
}

/// The challenge of an error that asks for a further proof.
fn challenge(error: &ServerError) -> Option<String> {
    let extensions = error.extensions.as_ref()?;
    let required = Value::from(ErrorCode::StepUpRequired.as_str());
    let max_age = extensions.get(MAX_AGE).filter(|_| extensions.get(CODE) == Some(&required))?;
    let mut text = format!("Bearer error=\"insufficient_user_authentication\", max_age=\"{max_age}\"");
    if let Some(Value::List(values)) = extensions.get(ACR_VALUES)
        && !values.is_empty()
    {
        let names: Vec<_> = values.iter().filter_map(|value| value.clone().into_json().ok()).collect();
        let names: Vec<_> = names.iter().filter_map(|name| name.as_str()).collect();
        text.push_str(&format!(", acr_values=\"{}\"", names.join(" ")));
    }
    Some(text)
}

/// How a request ended of which nothing but these errors is left: of those that pass, the longest counts.
fn turned_away(codes: impl Iterator<Item = Option<ErrorCode>>) -> Outcome {
    let waits: Option<Vec<_>> = codes.map(|code| code.and_then(|code| Some((code.retry_after_s()?, code)))).collect();
    let longest = waits.into_iter().flatten().max_by_key(|(seconds, _)| *seconds);
    longest.map_or(Outcome::Executed, |(_, code)| Outcome::TurnedAway(code))
}

#[derive(serde::Serialize)]
struct Parts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [ServerError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<AnswerExtensions>,
}

#[derive(serde::Serialize)]
struct AnswerExtensions {
    cost: Cost,
}

/// What an operation cost, in points.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    requested: u32,
    remaining: u32,
    reset_at: String,
}

fn retry_after_s(outcome: Outcome) -> Option<u32> {
    match outcome {
        Outcome::TurnedAway(code) | Outcome::Refused(code) => code.retry_after_s(),
        Outcome::Executed => None,
    }
}

/// Whether every root field is null.
fn is_empty(data: &Value) -> bool {
    match data {
        Value::Object(fields) => fields.values().all(|field| *field == Value::Null),
        Value::Null => true,
        Value::Number(_)
        | Value::String(_)
        | Value::Boolean(_)
        | Value::Binary(_)
        | Value::Enum(_)
        | Value::List(_) => false,
    }
}

/// Gives an error of the library its code, and a fault of ours its request id.
fn coded(error: ServerError, request: RequestId) -> ServerError {
    let code = error.extensions.as_ref().and_then(|extensions| extensions.get(CODE)).cloned();
    match code {
        Some(code) if code == Value::from(ErrorCode::Internal.as_str()) => {
            let mut error = error;
            error.extensions.get_or_insert_default().set("requestId", request.to_string());
            error
        }
        Some(_) => error,
        None => {
            let limit = LIMIT_MESSAGES.iter().any(|begin| error.message.starts_with(begin));
            let code = if limit { ErrorCode::QueryTooComplex } else { ErrorCode::GraphqlValidationFailed };
            with_code(error, code)
        }
    }
}

/// How the library's errors about its limits begin; they carry nothing else to know them by.
const LIMIT_MESSAGES: [&str; 5] = [
    "Query is too complex",
    "Query is nested too deep",
    "The recursion depth of the query",
    "The number of directives on the field",
    "The amount of aliases of the query",
];

fn with_code(mut error: ServerError, code: ErrorCode) -> ServerError {
    error.extensions.get_or_insert_default().set(CODE, code.as_str());
    error
}

impl Answer {
    /// The answer to a request that is not executed.
    pub fn refused(code: ErrorCode, message: &str) -> Self {
        Self::refused_until(code, message, code.retry_after_s())
    }

    /// The answer to a caller who has no points left.
    pub fn throttled(throttled: &Throttled) -> Self {
        let retry_after_s = Some(throttled.retry_after_s());
        let refused = Self::refused_until(ErrorCode::Throttled, &throttled.to_string(), retry_after_s);
        Self { standing: Some(throttled.standing), ..refused }
    }

    fn refused_until(code: ErrorCode, message: &str, retry_after_s: Option<u32>) -> Self {
        let mut extensions = json!({ CODE: code.as_str() });
        if let Some(seconds) = retry_after_s {
            extensions[RETRY_AFTER_SECONDS] = seconds.into();
        }
        let body = json!({ "errors": [{ "message": message, "extensions": extensions }] });
        Self { retry_after_s, ..Self::written(&body, Outcome::Refused(code)) }
    }

    /// The answer to a request that ended in a fault of ours.
    pub fn internal(request: RequestId) -> Self {
        let extensions = json!({ CODE: ErrorCode::Internal.as_str(), "requestId": request });
        let error = json!({ "message": "something failed on our side", "extensions": extensions });
        Self::written(&json!({ "errors": [error] }), Outcome::Refused(ErrorCode::Internal))
    }

    fn written(body: &serde_json::Value, outcome: Outcome) -> Self {
        let body = body.to_string().into_bytes();
        Self { body, outcome, challenge: None, retry_after_s: None, standing: None }
    }
}
