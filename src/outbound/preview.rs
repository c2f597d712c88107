//! The beginning of an answer, as text that is safe to store and to show.

use super::excerpt::excerpt;
use crate::domain::outcome::{MAX_BODY_PREVIEW_BYTES, Response};

/// Most bytes of an answer's body that are read; what follows is dropped with its connection.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest body that an announcement is believed of.
const MAX_ANNOUNCED_BYTES: u64 = i32::MAX.unsigned_abs() as u64;
/// Bytes kept for the preview: every byte becomes at least one byte of text, so a character that does not end within
/// these no longer fits.
const MAX_KEPT_BYTES: usize = MAX_BODY_PREVIEW_BYTES + 4;

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

    /// The answer as it is kept, without its headers. `announced_bytes` is how long the body was said to be, which counts
    /// where it was not read to its end.
    pub(super) fn into_response(
        self,
        status: u16,
        retry_after_s: Option<u64>,
        announced_bytes: Option<u64>,
    ) -> Response {
        let (preview, whole) = excerpt(&self.kept, MAX_BODY_PREVIEW_BYTES);
        let truncated = !whole || self.read_bytes > self.kept.len();
        let announced_bytes = announced_bytes.unwrap_or_default().min(MAX_ANNOUNCED_BYTES);
        let body_bytes = Some(announced_bytes.max(self.read_bytes as u64));
        Response { status, preview, truncated, retry_after_s, body_bytes, headers: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outbound::excerpt::is_plain;

    fn preview(body: &[u8]) -> Response {
        let mut preview = Preview::default();
        preview.push(body);
        preview.into_response(200, None, None)
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
        assert!(!preview(&[b'a'; MAX_BODY_PREVIEW_BYTES]).truncated);
        assert!(preview(&[b'a'; MAX_BODY_PREVIEW_BYTES + 1]).truncated);
    }

    #[test]
    fn reading_ends_at_the_cap() {
        let mut preview = Preview::default();
        assert!(preview.push(&[b'a'; MAX_BODY_BYTES - 1]));
        assert!(!preview.push(b"a"));
        let response = preview.into_response(200, None, None);
        assert_eq!((response.truncated, response.body_bytes), (true, Some(65_536)));
    }

    #[test]
    fn how_long_a_body_was_is_what_was_read_or_announced() {
        let mut preview = Preview::default();
        preview.push(b"\xff\n");
        assert_eq!(preview.into_response(200, None, Some(2)).body_bytes, Some(2));
        let mut preview = Preview::default();
        preview.push(&[b'a'; MAX_BODY_BYTES]);
        assert_eq!(preview.into_response(200, None, Some(10_000_000)).body_bytes, Some(10_000_000));
        assert_eq!(Preview::default().into_response(200, None, Some(u64::MAX)).body_bytes, Some(2_147_483_647));
        assert_eq!(Preview::default().into_response(204, None, None).body_bytes, Some(0));
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
            let response = collected.into_response(200, None, None);
            prop_assert!(response.preview.len() <= MAX_BODY_PREVIEW_BYTES);
            prop_assert!(response.preview.chars().all(is_plain));
            prop_assert_eq!(response, preview(&chunks.concat()));
        }
    }
}
