//! What is looked for: every way in which a secret may be written, found in one pass over many bytes.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Bytes by which needles are told apart before they are compared; none is shorter.
const KEY_BYTES: usize = 4;

/// The ways to write one text.
fn forms(text: &str) -> HashSet<Vec<u8>> {
    let bytes = text.as_bytes();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let reserved = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (*byte as char).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let url: String = bytes.iter().map(reserved).collect();
    let json = serde_json::Value::from(text).to_string();
    let debug: String = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let mut forms: HashSet<Vec<u8>> = [
        text.to_owned(),
        json[1..json.len() - 1].to_owned(),
        format!("{text:?}").trim_matches('"').to_owned(),
        debug.clone(),
        debug.replace(", ", ","),
        hex::encode(bytes),
        hex::encode_upper(bytes),
        url.to_lowercase(),
        percent.to_lowercase(),
        url,
        percent,
    ]
    .map(String::into_bytes)
    .into();
    // Inside other bytes it begins at any of three places of a group; what its neighbours have a part in is left out.
    for before in 0..3 {
        let shifted = [&b"\0\0"[..before], bytes].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&shifted).into_bytes();
            let first = [0, 2, 3][before];
            let last = shifted.len() / 3 * 4;
            forms.insert(encoded[first..last].to_vec());
        }
    }
    forms
}

/// All secrets, ready to be looked for.
pub(super) struct Needles {
    by_key: HashMap<[u8; KEY_BYTES], Vec<(usize, Vec<u8>)>>,
    /// Whether any needle begins with these two bytes.
    begins: Vec<bool>,
}

impl Needles {
    /// Of these texts; what is found is told by its place among them.
    pub(super) fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut needles = Self { by_key: HashMap::new(), begins: vec![false; 1 << 16] };
        for (index, text) in texts.into_iter().enumerate() {
            assert!(text.len() >= 8, "'{text}' would be found everywhere");
            for form in forms(text) {
                needles.begins[usize::from(u16::from_be_bytes([form[0], form[1]]))] = true;
                let key = *form.first_chunk().unwrap();
                needles.by_key.entry(key).or_default().push((index, form));
            }
        }
        needles
    }

    /// Where each text stands first in the bytes, whatever way it is written.
    pub(super) fn find(&self, bytes: &[u8]) -> HashMap<usize, usize> {
        let mut found = HashMap::new();
        for (at, pair) in bytes.windows(2).enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                continue;
            }
            let Some(key) = bytes[at..].first_chunk::<KEY_BYTES>() else { break };
            for (index, form) in self.by_key.get(key).into_iter().flatten() {
                if bytes[at..].starts_with(form) {
                    found.entry(*index).or_insert(at);
                }
            }
        }
        found
    }
}

#[test]
fn a_secret_is_found_however_it_is_written() {
    let text = "whsec_q\"+/7 \\x%&=zZ9";
    let needles = Needles::of(["something else", text]);
    let bytes = text.as_bytes();
    let json = serde_json::json!({ "a": [text] }).to_string();
    let mut written =
        vec![text.to_owned(), json.clone(), format!("{text:?}"), format!("{bytes:?}"), hex::encode(bytes)];
    for before in ["", "a", "ab", "abc"] {
        let inside = format!("{before}{text}behind");
        written.push(STANDARD_NO_PAD.encode(&inside));
        written.push(base64::engine::general_purpose::URL_SAFE.encode(&inside));
        written.push(base64::engine::general_purpose::STANDARD.encode(format!("{before}{text}")));
    }
    written.push(url::form_urlencoded::byte_serialize(bytes).collect::<String>().replace('+', "%20"));
    for text in written {
        assert_eq!(needles.find(format!("before {text} behind").as_bytes()).keys().collect::<Vec<_>>(), [&1], "{text}");
    }
    assert_eq!(needles.find(b"whsec_q\"+/7 and nothing of it"), HashMap::new());
}
