use super::*;
use crate::domain::profile::{self, CustomHeaderRules};

/// The profile of the AxisSynapse document, which allows five.
fn profile() -> &'static Profile {
    profile::find("axissynapse-v1").unwrap()
}

fn pairs(headers: &[(&str, &str)]) -> GivenHeaders {
    GivenHeaders::of(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// Where something is wrong.
fn refused(headers: &[(&str, &str)]) -> Vec<Place> {
    match CustomHeaders::check(profile(), pairs(headers)) {
        Ok(_) => vec![],
        Err(InvalidHeaders(problems)) => problems.iter().map(|problem| problem.place).collect(),
    }
}

#[test]
fn names_and_values_are_what_headers_may_be_and_nothing_reserved() {
    // S8
    let (long_name, long_value) = ("n".repeat(100), "v".repeat(1_024));
    for (name, value) in [
        ("X-Api-Key", "abc"),
        ("x-api-key", "with inner  spaces\tand a tab"),
        ("!#$%&'*+-.^_`|~09aZ", "~!\"{}"),
        (&*long_name, "v"),
        ("X-Long", &*long_value),
        ("Accept", "application/json"),
        ("Contents", "a reserved beginning is not a reserved name"),
        ("Hosted-By", "a"),
        ("Tea", "a"),
        ("X-Forwarder", "a"),
        ("X-Metadata", "a"),
        ("Webhook", "a"),
    ] {
        assert_eq!(refused(&[(name, value)]), [], "{name}: {value}");
    }
    let (too_long_name, too_long_value) = ("n".repeat(101), "v".repeat(1_025));
    for name in [
        "",
        " ",
        "X Api",
        "X-Api ",
        " X-Api",
        "X:Api",
        "X-Api:",
        "X\r\nApi",
        "X-Api\n",
        "X\0",
        "X\tApi",
        "Ü-Key",
        "X-\u{212a}ey",
        "X(Api)",
        "X/Api",
        "X=1",
        "X\"",
        "X,Y",
        "X;Y",
        "X@Y",
        "X[0]",
        "X{0}",
        "X?",
        "X\\Y",
        &too_long_name,
    ] {
        assert_eq!(refused(&[(name, "value")]), [Place::Name(0)], "{name:?}");
    }
    for value in [
        "",
        " ",
        "\t",
        " a",
        "a ",
        "\ta",
        "a\t",
        "a\r\nX-Evil: 1",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\u{7f}",
        "ä",
        "a\u{2028}b",
        "\u{1f511}",
        "a\u{1b}[0m",
        &too_long_value,
    ] {
        assert_eq!(refused(&[("X-Api-Key", value)]), [Place::Value(0)], "{value:?}");
    }
    for name in [
        "Authorization",
        "AUTHORIZATION",
        "aUtHoRiZaTiOn",
        "Host",
        "Content-Type",
        "content-length",
        "Content-Encoding",
        "CONTENT-DIGEST",
        "Transfer-Encoding",
        "Transfer_Encoding",
        "Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Proxy-Authorization",
        "proxy-connection",
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X_Forwarded_For",
        "Cookie",
        "Set-Cookie",
        "User-Agent",
        "X-Webhook-Signature",
        "x-webhook-anything",
        "X-Axissynapse-Signature",
        "X-AXISSYNAPSE-OTHER",
        "webhook-id",
        "Webhook-Signature",
        "ce-id",
        "CE-Type",
        "Signature",
        "Signature-Input",
        "Stripe-Signature",
        "X-Hub-Signature-256",
        "Metadata",
        "Metadata-Flavor",
        "X-aws-ec2-metadata-token",
        "X-AWS-EC2-Metadata-Token-TTL-Seconds",
        "X-Google-Metadata-Request",
        "Keep-Alive",
        "Via",
        "HTTP2-Settings",
        "Accept-Encoding",
        "X-HTTP-Method-Override",
        "X-Real-IP",
    ] {
        assert_eq!(refused(&[(name, "value")]), [Place::Name(0)], "{name}");
    }
}

#[test]
fn a_header_of_the_profile_is_nobody_elses() {
    // S8
    let github = include_bytes!("../../examples/profiles/github-style-v1.json");
    let mut own = profile::Definition::parse(github).unwrap().profile;
    own.custom_headers = CustomHeaderRules { max: 5 };
    let own_names: Vec<_> = own.header_names().map(str::to_owned).collect();
    assert!(own_names.len() > 2);
    for name in own_names {
        let swapped: String = name
            .chars()
            .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect();
        let headers = CustomHeaders::check(&own, pairs(&[(&*swapped, "value")]));
        assert!(headers.is_err(), "{swapped}");
    }
}

#[test]
fn a_profile_says_how_many_there_may_be() {
    // C15
    let five = [("A", "1"), ("B", "2"), ("C", "3"), ("D", "4"), ("E", "5")];
    let six: Vec<_> = five.into_iter().chain([("F", "6")]).collect();
    let allowed = |name: &str, headers: &[(&str, &str)]| {
        CustomHeaders::check(profile::find(name).unwrap(), pairs(headers)).map_err(|error| error.0[0].to_string())
    };
    assert!(allowed("axissynapse-v1", &five).is_ok() && allowed("standard-v1", &five).is_ok());
    assert_eq!(
        allowed("axissynapse-v1", &six).unwrap_err(),
        "there are 6 custom headers; profile 'axissynapse-v1' allows 5"
    );
    assert_eq!(allowed("axie-v1", &five[..1]).unwrap_err(), "profile 'axie-v1' allows no custom headers");
    assert!(allowed("axie-v1", &[]).is_ok());
}

#[test]
fn no_two_are_alike_and_all_together_are_not_too_large() {
    assert_eq!(refused(&[("X-Key", "1"), ("Other", "2"), ("x-KEY", "3")]), [Place::Name(2)]);
    assert_eq!(refused(&[("Host", ""), ("X-Key", "\n")]), [Place::Name(0), Place::Value(0), Place::Value(1)]);
    let generous = Profile { custom_headers: CustomHeaderRules { max: 20 }, ..profile().clone() };
    let value = "v".repeat(1_024);
    let many = |count: usize| GivenHeaders::of((0..count).map(|index| (format!("X-{index}"), value.clone())));
    assert!(CustomHeaders::check(&generous, many(7)).is_ok());
    let error = CustomHeaders::check(&generous, many(8)).unwrap_err();
    assert_eq!(error.0[0].to_string(), "the custom headers have 8216 bytes; at most 8192 are allowed");
}

#[test]
fn what_is_sealed_is_what_was_given_and_nothing_prints_a_value() {
    let headers = CustomHeaders::check(profile(), pairs(&[("X-Key", "hidden \"1\""), ("x-b", "hidden 2")])).unwrap();
    let sealed = headers.to_secret();
    assert_eq!(CustomHeaders::of_secret(&sealed).unwrap(), headers);
    let given = pairs(&[("X-Key", "hidden")]);
    assert_eq!(format!("{given:?} {headers:?} {sealed:?}"), r#"*** ["X-Key", "x-b"] ***"#);
    assert_eq!(CustomHeaders::of_secret(&Secret::stored("whsec_abc".into())), None);
    let mistaken = CustomHeaders::check(profile(), pairs(&[("hidden: name", "hidden value\n")])).unwrap_err();
    assert!(!format!("{mistaken:?} {}", mistaken.0[0]).contains("hidden"));
}

#[test]
fn what_an_endpoint_sends_back_is_hidden() {
    let headers = CustomHeaders::check(
        profile(),
        pairs(&[("X-Key", "kept-from-view"), ("X-Short", "1"), ("X-Odd", "a\tb\\c \"d\"")]),
    )
    .unwrap();
    for (answer, shown) in [
        ("{\"x-key\":\"kept-from-view\",\"n\":1}", "{\"x-key\":\"***\",\"n\":1}"),
        ("cut off: kept-from-vie", "cut off: ***"),
        ("cut off: kept-f", "cut off: ***"),
        ("kept", "kept"),
        (r#"odd: a\tb\c "d"."#, "odd: ***."),
        (r#"{"x":"a\tb\\c \"d\""}"#, r#"{"x":"***"}"#),
    ] {
        let mut text = answer.to_owned();
        headers.redact(&mut text);
        assert_eq!(text, shown);
    }
}
