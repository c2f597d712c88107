//! The beginning of an answer, as text that is safe to store and to show.

use crate::domain::outcome::Response;

/// Most bytes of text in a preview.
const MAX_PREVIEW_BYTES: usize = 1024;
/// Most bytes of an answer's body that are read; what follows is dropped with its connection.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Bytes kept for the preview: every byte becomes at least one byte of text, so a character that does not end within
/// these no longer fits.
const MAX_KEPT_BYTES: usize = MAX_PREVIEW_BYTES + 4;

/// Collects a body chunk by chunk and keeps no more than its beginning.
#[derive(Default)]
pub(super) struct Preview {
    kept: Vec<u8>,
    read_bytes: usize,
}

impl Preview {
    /// Takes the next chunk and says whether to read on.
    pub(super) fn push(&mut self, chunk: &[u8]) -> bool {
        let room = MAX_KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        self.read_bytes = self.read_bytes.saturating_add(chunk.len());
        self.read_bytes < MAX_BODY_BYTES
    }

    /// The answer as it is kept.
    pub(super) fn into_response(self, status: u16, retry_after_s: Option<u64>) -> Response {
        let (preview, whole) = escape(&self.kept);
        let truncated = !whole || self.read_bytes > self.kept.len();
        Response { status, preview, truncated, retry_after_s }
    }
}

/// The text, at most [`MAX_PREVIEW_BYTES`] long, and whether it is all of `bytes`.
fn escape(bytes: &[u8]) -> (String, bool) {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().chars().map(escape_character);
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in valid.chain(invalid) {
            if text.len() + piece.len() > MAX_PREVIEW_BYTES {
                return (text, false);
            }
            text.push_str(&piece);
        }
    }
    (text, true)
}

fn escape_character(character: char) -> String {
    if character.is_control() || reorders_text(character) {
        character.escape_default().to_string()
    } else {
        character.to_string()
    }
}

/// Invisible characters that break lines or turn the direction of the text around them, wherever it is shown.
fn reorders_text(character: char) -> bool {
    matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preview(body: &[u8]) -> Response {
        let mut preview = Preview::default();
        preview.push(body);
        preview.into_response(200, None)
    }

    #[test]
    fn readable_text_is_kept_and_everything_else_is_escaped() {
        let body = "gr\u{fc}\u{df}e {\"a\": 1}\r\n\t\u{1b}[31m\0\u{7f}\u{85}\u{202e}".as_bytes();
        let response = preview(&[body, b"\xff\xc3"].concat());
        assert_eq!(
            response.preview,
            "gr\u{fc}\u{df}e {\"a\": 1}\\r\\n\\t\\u{1b}[31m\\u{0}\\u{7f}\\u{85}\\u{202e}\\xff\\xc3"
        );
        assert!(!response.truncated);
    }

    #[test]
    fn a_preview_never_ends_inside_a_character() {
        let response = preview("\u{20ac}".repeat(400).as_bytes());
        assert_eq!(response.preview, "\u{20ac}".repeat(341));
        assert!(response.truncated);
    }

    #[test]
    fn a_body_exactly_as_long_as_the_preview_is_whole() {
        assert!(!preview(&[b'a'; MAX_PREVIEW_BYTES]).truncated);
        assert!(preview(&[b'a'; MAX_PREVIEW_BYTES + 1]).truncated);
    }

    #[test]
    fn reading_ends_at_the_cap() {
        let mut preview = Preview::default();
        assert!(preview.push(&[b'a'; MAX_BODY_BYTES - 1]));
        assert!(!preview.push(b"a"));
        assert!(preview.into_response(200, None).truncated);
    }

    proptest! {
        #[test]
        fn a_preview_is_short_and_printable_however_the_body_comes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..4),
        ) {
            let mut collected = Preview::default();
            for chunk in &chunks {
                collected.push(chunk);
            }
            let response = collected.into_response(200, None);
            prop_assert!(response.preview.len() <= MAX_PREVIEW_BYTES);
            prop_assert!(!response.preview.contains(|c: char| c.is_control() || reorders_text(c)));
            prop_assert_eq!(response, preview(&chunks.concat()));
        }
    }
}
