//! Documents that ask for too much are refused before they cost anything.

use serde_json::json;

use super::Api;

async fn code(api: &Api, query: &str) -> String {
    let answer = api.answer(&api.key, query, &json!({})).await;
    assert!(answer.get("data").is_none(), "{answer}");
    answer["errors"][0]["extensions"]["code"].as_str().unwrap().to_owned()
}

fn bomb(levels: usize, width: usize) -> String {
    let fragments: String = (0..levels)
        .map(|level| format!("fragment f{level} on Query {{ {} }} ", format!("...f{} ", level + 1).repeat(width)))
        .collect();
    format!("{{ ...f0 }} {fragments} fragment f{levels} on Query {{ viewer {{ name }} }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_expands_too_far_is_refused() {
    let api = Api::start().await;
    for hostile in [
        bomb(22, 2),
        bomb(5, 40),
        "{ ...a } fragment a on Query { ...a }".into(),
        format!("{{ {} }}", (0..60).map(|n| format!("a{n}: viewer {{ name }} ")).collect::<String>()),
        format!("{{ viewer {{ name {} }} }}", "@skip(if: false) ".repeat(5)),
        format!("{{ viewer {{ {} name {} }} }}", "tenant { webhooks { nodes { deliveries { nodes { webhook { ".repeat(3), "} } } } } } ".repeat(3)),
        "{ webhooks(first: 100) { nodes { deliveries(first: 100) { nodes { id attempts(first: 100) { nodes { id } } } } } } }".into(),
    ] {
        assert_eq!(code(&api, &hostile).await, "QUERY_TOO_COMPLEX", "{hostile}");
    }
    assert_eq!(code(&api, &format!("{{ viewer {{ name }} }} #{}", "x".repeat(70_000))).await, "QUERY_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_and_tools_ask_is_let_through() {
    let api = Api::start().await;
    api.data(
        "{ deliveries(first: 100) { nodes { id status message { id type } attempts { nodes { number outcome statusCode error } } } } }",
        json!({}),
    )
    .await;
    // What GraphiQL and code generators send, nesting and all.
    let of_type = "ofType { kind name ".repeat(9) + &"} ".repeat(9);
    let introspection = format!(
        "query IntrospectionQuery {{ __schema {{ description queryType {{ name }} mutationType {{ name }} subscriptionType {{ name }}
            types {{ ...FullType }} directives {{ name description locations args {{ ...InputValue }} }} }} }}
        fragment FullType on __Type {{ kind name description fields(includeDeprecated: true) {{ name description
            args {{ ...InputValue }} type {{ ...TypeRef }} isDeprecated deprecationReason }}
            inputFields {{ ...InputValue }} interfaces {{ ...TypeRef }}
            enumValues(includeDeprecated: true) {{ name description isDeprecated deprecationReason }} possibleTypes {{ ...TypeRef }} }}
        fragment InputValue on __InputValue {{ name description type {{ ...TypeRef }} defaultValue }}
        fragment TypeRef on __Type {{ kind name {of_type} }}"
    );
    let data = api.data(&introspection, json!({})).await;
    assert!(data["__schema"]["types"].as_array().unwrap().len() > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_few_and_short_and_never_repeat_the_document() {
    let api = Api::start().await;
    let many = (0..40).map(|n| format!("secret{n} ")).collect::<String>();
    let answer = api.answer(&api.key, &format!("{{ {many} }}"), &json!({})).await;
    assert_eq!(answer["errors"].as_array().unwrap().len(), 20);
    assert_eq!(answer["errors"][0]["extensions"]["code"], json!("GRAPHQL_VALIDATION_FAILED"));
    let answer = api.answer(&api.key, "{ viewer(token: \"hunter2\" { name }", &json!({})).await;
    let message = answer["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("the document does not parse") && !message.contains('\n') && !message.contains("hunter2")
    );
    assert_eq!(answer["errors"][0]["locations"][0]["line"], json!(1));
}
