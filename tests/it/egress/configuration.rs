//! The rules of the operator, as auditors see them.

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::server::{Kind, Server, on_both};

const SYSTEM: &str = "{ systemAuditLog { nodes { code actor { kind } targetId tenant { id } changes } } }";
const OWN: &str = "{ auditLog(first: 100) { nodes { code } } }";

async fn a_change_of_the_rules_is_recorded_once_and_no_tenant_sees_it(kind: Kind) {
    let receiver = Receiver::start().await;
    let mut server = Server::start_on(kind, &receiver.ca_file()).await;
    let first = server.until(SYSTEM, Value::Null, |data| data["systemAuditLog"]["nodes"] != json!([])).await;
    let [entry] = first["systemAuditLog"]["nodes"].as_array().unwrap().as_slice() else { panic!("{first}") };
    assert_eq!((&entry["code"], &entry["actor"]["kind"]), (&json!("SYSTEM_CONFIG_CHANGED"), &json!("SYSTEM")));
    assert_eq!((&entry["targetId"], &entry["tenant"]), (&json!("egress"), &Value::Null));
    assert_eq!(entry["changes"]["allow_cidrs"], json!({ "from": [], "to": ["127.0.0.0/8"] }));
    assert_eq!(entry["changes"].as_object().unwrap().len(), 2, "and the authorities: {entry}");

    server.terminate();
    server.restart();
    let text = std::fs::read_to_string(server.config()).unwrap();
    std::fs::write(server.config(), text.replace("[egress]\n", "[egress]\ndeny_cidrs = [\"127.0.0.8/32\"]\n")).unwrap();
    server.terminate();
    server.restart();
    let entries = |data: &Value| data["systemAuditLog"]["nodes"].as_array().unwrap().len();
    let second = server.until(SYSTEM, Value::Null, |data| entries(data) > 1).await;
    let nodes = &second["systemAuditLog"]["nodes"];
    assert_eq!(entries(&second), 2, "a start with the same rules tells nothing: {second}");
    assert_eq!(nodes[0]["changes"], json!({ "deny_cidrs": { "from": [], "to": ["127.0.0.8/32"] } }));

    let own = server.data(OWN, Value::Null).await;
    let codes: Vec<_> = own["auditLog"]["nodes"].as_array().unwrap().iter().map(|node| &node["code"]).collect();
    assert!(!codes.is_empty() && !codes.contains(&&json!("SYSTEM_CONFIG_CHANGED")), "{own}");
}

on_both! {
    a_change_of_the_rules_is_recorded_once_and_no_tenant_sees_it,
}
