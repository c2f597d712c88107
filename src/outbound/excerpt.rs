//! The beginning of bytes from outside, as text that is safe to store and to show.

/// The text, at most `max_bytes` long and never ended inside a character, and whether it is all of `bytes`. Bytes that are
/// no UTF-8, control characters and whatever turns the direction of text are escaped.
pub(super) fn excerpt(bytes: &[u8], max_bytes: usize) -> (String, bool) {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().chars().map(escape_character);
        let invalid = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in valid.chain(invalid) {
            if text.len() + piece.len() > max_bytes {
                return (text, false);
            }
            text.push_str(&piece);
        }
    }
    (text, true)
}

fn escape_character(character: char) -> String {
    if is_plain(character) { character.to_string() } else { character.escape_default().to_string() }
}

/// Whether a character stands in an excerpt as it is.
pub(super) fn is_plain(character: char) -> bool {
    !character.is_control() && !reorders_text(character)
}

/// Invisible characters that break lines or turn the direction of the text around them, wherever it is shown.
fn reorders_text(character: char) -> bool {
    matches!(character, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
