//! The event types that a tenant announced, and how their definitions change.

use serde_json::Value;

use super::{MAX_EVENT_TYPES, Refusal, Tenant};
use crate::domain::catalogue;
use crate::domain::event::{Change, EventTypeRegistered, EventTypeUpdated, TenantEvent};
use crate::domain::filter::EventType;

/// An event type of a tenant's own, as it is defined now.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnEventType {
    /// What it belongs to.
    pub category: String,
    /// What it tells, for people.
    pub description: String,
    /// What its data looks like, in a word that changes with the schema.
    pub version: String,
    /// JSON Schema of the data.
    pub schema: Value,
    /// Data that conforms to it.
    pub example: Option<Value>,
    /// Why it will not be published for ever; `None`: it will be.
    pub deprecation_reason: Option<String>,
}

/// Another definition of an event type, which the caller has checked.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTypeUpdate {
    /// Of which one.
    pub name: EventType,
    /// The definition that the caller has seen: whatever they left out was taken from it.
    pub from: OwnEventType,
    /// The new one.
    pub to: OwnEventType,
}

impl OwnEventType {
    pub(super) fn registered(registered: &EventTypeRegistered) -> Self {
        let EventTypeRegistered { name: _, category, description, version, schema, example } = registered.clone();
        Self { category, description, version, schema, example, deprecation_reason: None }
    }

    pub(super) fn evolve(&mut self, updated: &EventTypeUpdated) {
        let EventTypeUpdated { name: _, category, description, version, schema, example, deprecation_reason } = updated;
        take(&mut self.category, category.as_ref());
        take(&mut self.description, description.as_ref());
        take(&mut self.version, version.as_ref());
        take(&mut self.deprecation_reason, deprecation_reason.as_ref());
        if let Some(schema) = schema {
            self.schema = schema.clone();
        }
        if example.is_some() {
            self.example.clone_from(example);
        }
    }

    /// Whether it is defined so, deprecated or not.
    fn is(&self, registered: &EventTypeRegistered) -> bool {
        *self == Self { deprecation_reason: self.deprecation_reason.clone(), ..Self::registered(registered) }
    }
}

fn take<T: Clone>(field: &mut T, change: Option<&Change<T>>) {
    if let Some(change) = change {
        *field = change.to.clone();
    }
}

pub(super) fn register(state: &Tenant, registered: EventTypeRegistered) -> Result<Vec<TenantEvent>, Refusal> {
    match state.event_types.get(&registered.name) {
        Some(known) if known.is(&registered) => return Ok(vec![]),
        Some(_) => return Err(Refusal::EventTypeExists(registered.name)),
        None if catalogue::find(&registered.name).is_some() => {
            return Err(Refusal::EventTypeExists(registered.name));
        }
        None if state.event_types.len() >= MAX_EVENT_TYPES => return Err(Refusal::TooManyEventTypes),
        None => {}
    }
    Ok(vec![TenantEvent::EventTypeRegistered(registered)])
}

/// Receivers tell by the version what they read: another schema needs another one.
pub(super) fn update(state: &Tenant, update: EventTypeUpdate) -> Result<Vec<TenantEvent>, Refusal> {
    let EventTypeUpdate { name, from, to } = update;
    let known = state.event_types.get(&name).ok_or_else(|| Refusal::NoSuchEventType(name.clone()))?;
    if *known != from {
        return Err(Refusal::EventTypeChanged(name));
    }
    if to.schema != from.schema && to.version == from.version {
        return Err(Refusal::VersionNeeded(from.version));
    }
    if to == from {
        return Ok(vec![]);
    }
    Ok(vec![TenantEvent::EventTypeUpdated(EventTypeUpdated {
        name,
        category: changed(from.category, to.category),
        description: changed(from.description, to.description),
        version: changed(from.version, to.version),
        schema: Some(to.schema).filter(|schema| *schema != from.schema),
        example: to.example.filter(|example| Some(example) != from.example.as_ref()),
        deprecation_reason: changed(from.deprecation_reason, to.deprecation_reason),
    })])
}

fn changed<T: PartialEq>(from: T, to: T) -> Option<Change<T>> {
    (from != to).then_some(Change { from, to })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Command, decide, tests::acme};
    use super::*;
    use crate::error_code::ErrorCode;

    fn opened() -> EventType {
        EventType::parse("chat.opened").unwrap()
    }

    fn announced() -> Tenant {
        let mut tenant = acme();
        tenant.evolve(&TenantEvent::EventTypeRegistered(EventTypeRegistered {
            name: opened(),
            category: "chat".into(),
            description: "one".into(),
            version: "1".into(),
            schema: json!({}),
            example: None,
        }));
        tenant
    }

    /// What becomes of it when it is changed so.
    fn changed_by(tenant: &mut Tenant, change: impl FnOnce(&mut OwnEventType)) -> Result<usize, Refusal> {
        let from = tenant.event_types[&opened()].clone();
        let mut to = from.clone();
        change(&mut to);
        let update = EventTypeUpdate { name: opened(), from, to: to.clone() };
        let events = decide(tenant, Command::UpdateEventType(Box::new(update)))?;
        events.iter().for_each(|event| tenant.evolve(event));
        assert_eq!(tenant.event_types[&opened()], to);
        Ok(events.len())
    }

    #[test]
    fn a_definition_changes_and_another_schema_needs_another_version() {
        let mut tenant = announced();
        assert_eq!(changed_by(&mut tenant, |_| {}), Ok(0));
        assert_eq!(changed_by(&mut tenant, |to| to.description = "two".into()), Ok(1));
        let other = json!({ "type": "object" });
        let refused = changed_by(&mut tenant, |to| to.schema = other.clone()).unwrap_err();
        assert_eq!((&refused, refused.code()), (&Refusal::VersionNeeded("1".into()), ErrorCode::InvalidInput));
        let both = |to: &mut OwnEventType| (to.schema, to.version) = (other.clone(), "2".into());
        assert_eq!(changed_by(&mut tenant, both), Ok(1));
        assert_eq!(changed_by(&mut tenant, |to| to.example = Some(json!({}))), Ok(1));
    }

    #[test]
    fn a_deprecated_event_type_is_known_and_comes_back() {
        let mut tenant = announced();
        assert_eq!(changed_by(&mut tenant, |to| to.deprecation_reason = Some("use chat.begun".into())), Ok(1));
        assert!(tenant.knows(&opened()));
        assert_eq!(changed_by(&mut tenant, |to| to.deprecation_reason = None), Ok(1));
    }

    #[test]
    fn a_definition_is_registered_again_as_it_is_now_and_not_as_it_was() {
        let mut tenant = announced();
        let registered = |description: &str| {
            Command::RegisterEventType(EventTypeRegistered {
                name: opened(),
                category: "chat".into(),
                description: description.into(),
                version: "1".into(),
                schema: json!({}),
                example: None,
            })
        };
        let later = |to: &mut OwnEventType| (to.description, to.deprecation_reason) = ("two".into(), Some("x".into()));
        assert_eq!(changed_by(&mut tenant, later), Ok(1));
        assert_eq!(decide(&tenant, registered("two")), Ok(vec![]));
        assert_eq!(decide(&tenant, registered("one")), Err(Refusal::EventTypeExists(opened())));
    }

    #[test]
    fn what_somebody_else_changed_meanwhile_is_not_overwritten() {
        let mut tenant = announced();
        let from = tenant.event_types[&opened()].clone();
        assert_eq!(changed_by(&mut tenant, |to| to.description = "two".into()), Ok(1));
        let to = OwnEventType { category: "talk".into(), ..from.clone() };
        let update = EventTypeUpdate { name: opened(), from: from.clone(), to: to.clone() };
        let refused = decide(&tenant, Command::UpdateEventType(Box::new(update))).unwrap_err();
        assert_eq!((&refused, refused.code()), (&Refusal::EventTypeChanged(opened()), ErrorCode::VersionConflict));
        let update = EventTypeUpdate { name: EventType::parse("chat.closed").unwrap(), from, to };
        let refused = decide(&tenant, Command::UpdateEventType(Box::new(update))).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::NotFound);
    }
}
