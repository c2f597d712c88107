//! One-time codes by the clock (RFC 6238), as every authenticator app makes them: SHA-1, six digits, 30 seconds.
//!
//! `ring` has HMAC-SHA-1 for this use; a library of its own would save these thirty lines and bring two crates.

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::domain::secret::Secret;

/// Bytes of a secret: as many as SHA-1 gives.
pub const SECRET_BYTES: usize = 20;
/// How long one code counts, in seconds.
pub const STEP_S: u64 = 30;
/// Codes before and behind the present one that count as well, for clocks that differ.
const DRIFT_STEPS: u64 = 1;
const DIGITS: usize = 6;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A new secret, as it is sealed: Base32, which people can type.
pub fn secret(random: &[u8; SECRET_BYTES]) -> Secret {
    Secret::stored(base32(random))
}

/// What an authenticator app reads from a QR code.
pub fn uri(user: &str, secret: &Secret) -> String {
    let user = user.replace('@', "%40");
    format!("otpauth://totp/Tidings:{user}?secret={}&issuer=Tidings&algorithm=SHA1&digits=6&period=30", secret.expose())
}

/// The step whose code this is, of those that count now. Takes the same time for every code.
pub fn matching_step(secret: &Secret, code: &str, now_s: u64) -> Option<u64> {
    let key = from_base32(secret.expose())?;
    let present = now_s / STEP_S;
    let steps = present.saturating_sub(DRIFT_STEPS)..=present + DRIFT_STEPS;
    steps.fold(None, |found, step| {
        let same: bool = self::code(&key, step).as_bytes().ct_eq(code.as_bytes()).into();
        if same { Some(step) } else { found }
    })
}

/// The code of a secret at a time, for tests and for those who have no app.
pub fn code_at(secret: &Secret, now_s: u64) -> Option<String> {
    Some(code(&from_base32(secret.expose())?, now_s / STEP_S))
}

fn code(key: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let at = usize::from(bytes[bytes.len() - 1] & 0xf);
    let number = u32::from_be_bytes([bytes[at] & 0x7f, bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    format!("{:0DIGITS$}", number % 1_000_000)
}

fn base32(bytes: &[u8]) -> String {
    let digit = |group: &[u8], index: usize| {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (8 * (5 - group.len()));
        char::from(ALPHABET[(bits >> (35 - 5 * index) & 31) as usize])
    };
    bytes.chunks(5).flat_map(|group| (0..(group.len() * 8).div_ceil(5)).map(move |index| digit(group, index))).collect()
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (vec![], 0_u32, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        bits = bits << 5 | value as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, its last six digits.
        let secret = secret(b"12345678901234567890");
        assert_eq!(secret.expose(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        for (at, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            assert_eq!(code_at(&secret, at).unwrap(), code);
            assert_eq!(matching_step(&secret, code, at), Some(at / STEP_S));
        }
    }

    #[test]
    fn a_code_counts_one_step_early_and_late() {
        let secret = secret(&[9; SECRET_BYTES]);
        let code = code_at(&secret, 3_000).unwrap();
        for (at, counts) in [(2_939, false), (2_970, true), (3_000, true), (3_059, true), (3_060, false)] {
            assert_eq!(matching_step(&secret, &code, at), counts.then_some(100), "at {at}");
        }
        for noise in ["", "12345", "1234567", "abcdef"] {
            assert_eq!(matching_step(&secret, noise, 3_000), None);
        }
    }

    #[test]
    fn base32_comes_back() {
        for length in 0..12 {
            let bytes: Vec<_> = (0..length).map(|byte: u8| byte.wrapping_mul(37)).collect();
            assert_eq!(from_base32(&base32(&bytes)).unwrap(), bytes);
        }
        assert_eq!((base32(b"foobar").as_str(), from_base32("a")), ("MZXW6YTBOI", None));
    }
}
