//! What stands in the headers: fixed texts, what the delivery tells, and signatures.

use std::fmt;

use serde::Deserialize;

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name, as written on the wire.
    pub name: String,
    /// What stands in it.
    pub value: HeaderValue,
}

/// What may stand in a header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderValue {
    /// The message's id, the same on every attempt.
    MessageId,
    /// The event type.
    Type,
    /// When this attempt began, in Unix seconds (A27).
    AttemptedAt,
    /// The message's place among all that the subscription has matched, from 1, without gaps: a receiver that finds one
    /// missing has lost a message (S33). No header for a test.
    Sequence,
    /// A fixed text.
    Text(String),
}

/// One signature header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The header's name.
    pub header: String,
    /// What stands in the header; the signatures alone if it is absent.
    #[serde(default)]
    pub value: Template,
    /// What stands before each encoded signature.
    pub prefix: String,
    /// What stands between two signatures; a space if it is absent.
    #[serde(default = "space")]
    pub separator: String,
    /// How the bytes are written.
    pub encoding: Encoding,
    /// Which bytes are signed.
    pub content: SignedContent,
    /// How is signed; by HMAC-SHA256 if it is absent.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How the secret's text becomes the key.
    pub key: KeyForm,
    /// Whether secrets in their overlap sign too. Receivers that compare the whole header must not see a second
    /// signature (A26, S17).
    pub overlap: bool,
}

fn space() -> String {
    " ".to_owned()
}

/// What stands in a signature's header: text in which places are filled, as in `t={attempted_at},{signatures}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Piece>);

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// To be filled.
    Place(Place),
}

/// What a place in a [`Template`] is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The signatures, each behind its prefix. Once in every template.
    Signatures,
    /// When this attempt began, in Unix seconds.
    AttemptedAt,
    /// The message's id.
    MessageId,
}

/// The text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// A brace that opens or closes nothing.
    #[error("a brace stands alone")]
    Brace,
    /// Between braces stands something else than a place.
    #[error("there is no place {{{0}}}, only {{signatures}}, {{attempted_at}} and {{message_id}}")]
    Place(String),
    /// The signatures have no place, or more than one.
    #[error("{{signatures}} must stand in it once")]
    Signatures,
    /// Nobody could say where one place ends and the next begins.
    #[error("between two places there must be text")]
    Adjacent,
}

impl Default for Template {
    fn default() -> Self {
        Self(vec![Piece::Place(Place::Signatures)])
    }
}

impl TryFrom<String> for Template {
    type Error = InvalidTemplate;

    fn try_from(text: String) -> Result<Self, InvalidTemplate> {
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (before, place, behind) = next_place(rest)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            } else if place.is_some() && matches!(pieces.last(), Some(Piece::Place(_))) {
                return Err(InvalidTemplate::Adjacent);
            }
            pieces.extend(place.map(Piece::Place));
            rest = behind;
        }
        match pieces.iter().filter(|piece| **piece == Piece::Place(Place::Signatures)).count() {
            1 => Ok(Self(pieces)),
            _ => Err(InvalidTemplate::Signatures),
        }
    }
}

/// The text before the next place, the place, and what follows.
fn next_place(text: &str) -> Result<(&str, Option<Place>, &str), InvalidTemplate> {
    let Some((before, rest)) = text.split_once('{') else {
        return if text.contains('}') { Err(InvalidTemplate::Brace) } else { Ok((text, None, "")) };
    };
    let (name, behind) = rest.split_once('}').ok_or(InvalidTemplate::Brace)?;
    if before.contains('}') || name.contains('{') {
        return Err(InvalidTemplate::Brace);
    }
    let place = Place::ALL.into_iter().find(|place| place.name() == name);
    Ok((before, Some(place.ok_or_else(|| InvalidTemplate::Place(name.to_owned()))?), behind))
}

impl Place {
    const ALL: [Self; 3] = [Self::Signatures, Self::AttemptedAt, Self::MessageId];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Signatures => "signatures",
            Self::AttemptedAt => "attempted_at",
            Self::MessageId => "message_id",
        }
    }
}

impl Template {
    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether it has that place.
    pub fn has(&self, place: Place) -> bool {
        self.0.contains(&Piece::Place(place))
    }

    /// The text with its places filled.
    pub fn fill(&self, fill: impl Fn(Place) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Place(place) => fill(*place),
        };
        self.0.iter().map(piece).collect()
    }

    /// What stands in the places of a filled text; `None` if it is not of this form. A place ends where the text behind
    /// it first occurs.
    pub fn read<'a>(&self, filled: &'a str) -> Option<Vec<(Place, &'a str)>> {
        let mut found = Vec::new();
        let mut rest = filled;
        let mut pieces = self.0.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Text(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Place(place) => {
                    let end = match pieces.peek() {
                        Some(Piece::Text(text)) => rest.find(text.as_str())?,
                        Some(Piece::Place(_)) | None => rest.len(),
                    };
                    found.push((*place, &rest[..end]));
                    rest = &rest[end..];
                }
            }
        }
        rest.is_empty().then_some(found)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fill(|place| format!("{{{}}}", place.name())))
    }
}

/// How a signature's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Lower-case hexadecimal.
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// Which bytes a signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignedContent {
    /// The body alone.
    Body,
    /// `timestamp.body`, the timestamp in Unix seconds.
    TimestampBody,
    /// `id.timestamp.body`, as Standard Webhooks has it.
    IdTimestampBody,
}

/// How is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// By a secret that sender and receiver share.
    #[default]
    HmacSha256,
    /// By a key that only the sender has; receivers verify by the public one.
    Ed25519,
}

/// How the secret's text becomes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyForm {
    /// The UTF-8 bytes of the whole text.
    Text,
    /// What base64 decodes to behind `whsec_`; of any other text its UTF-8 bytes.
    Whsec,
    /// The private key that base64 decodes to behind `whsk_`.
    Whsk,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template, InvalidTemplate> {
        Template::try_from(text.to_owned())
    }

    #[test]
    fn a_template_reads_back_what_it_was_filled_with() {
        let stripe = template("t={attempted_at},{signatures}").unwrap();
        let fill = |place| match place {
            Place::Signatures => "v1=aa,v1=bb".to_owned(),
            Place::AttemptedAt => "1700000000".to_owned(),
            Place::MessageId => "evt_1".to_owned(),
        };
        let filled = stripe.fill(fill);
        assert_eq!(filled, "t=1700000000,v1=aa,v1=bb");
        assert_eq!(
            stripe.read(&filled),
            Some(vec![(Place::AttemptedAt, "1700000000"), (Place::Signatures, "v1=aa,v1=bb")])
        );
        assert_eq!(stripe.read("v1=aa"), None);
        assert_eq!(template("<{signatures}>").unwrap().read("<aa> "), None);
        assert_eq!(Template::default().read("v1,aa v1,bb"), Some(vec![(Place::Signatures, "v1,aa v1,bb")]));
        assert_eq!(stripe.to_string(), "t={attempted_at},{signatures}");
    }

    #[test]
    fn what_is_no_template_is_told() {
        for (text, told) in [
            ("t={attempted_at}", "{signatures} must stand in it once"),
            ("", "{signatures} must stand in it once"),
            ("{signatures};{signatures}", "{signatures} must stand in it once"),
            ("{signature}", "there is no place {signature}, only {signatures}, {attempted_at} and {message_id}"),
            ("{attempted_at}{signatures}", "between two places there must be text"),
            ("{signatures", "a brace stands alone"),
            ("{signatures}}", "a brace stands alone"),
            ("}{signatures}", "a brace stands alone"),
            ("{{signatures}}", "a brace stands alone"),
        ] {
            assert_eq!(template(text).unwrap_err().to_string(), told, "{text}");
        }
    }
}
