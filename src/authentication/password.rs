//! Passwords, hashed by Argon2id.
//!
//! A hash says by which parameters it was made (the form is that of the password hashing competition), so that later
//! ones may be dearer.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;

use crate::domain::secret::Secret;

/// The fewest characters of a password.
pub const MIN_CHARS: usize = 12;
/// The most bytes: what is longer is not hashed at all.
pub const MAX_BYTES: usize = 256;
/// OWASP's least for Argon2id: 19 MiB, two passes, one lane.
const COST: Cost = Cost { memory_kib: 19_456, passes: 2, lanes: 1 };
/// Stands in for the salt of somebody whom nobody knows.
const NOBODY: [u8; 16] = [0; 16];
const HASH_BYTES: usize = 32;

#[derive(Clone, Copy)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// The hash of a password, to be sealed. Takes tens of milliseconds of CPU.
pub fn hash(password: &str, salt: &[u8; 16]) -> Secret {
    let digest = digest(password, salt, COST).expect("the parameters are Argon2's");
    let Cost { memory_kib, passes, lanes } = COST;
    let (salt, digest) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(digest));
    Secret::stored(format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${digest}"))
}

/// Whether that is the password behind the hash. Without a hash it works as hard, and says no.
pub fn matches(password: &str, stored: Option<&Secret>) -> bool {
    let parsed = stored.and_then(|stored| parse(stored.expose()));
    let (cost, salt, expected) = parsed.clone().unwrap_or((COST, NOBODY.to_vec(), vec![]));
    let fits = password.len() <= MAX_BYTES;
    let found = digest(if fits { password } else { "" }, &salt, cost);
    let same = found.is_some_and(|found| found.as_slice().ct_eq(&expected).into());
    same && fits && parsed.is_some()
}

fn digest(password: &str, salt: &[u8], cost: Cost) -> Option<[u8; HASH_BYTES]> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(HASH_BYTES)).ok()?;
    let mut out = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut out)
        .ok()?;
    Some(out)
}

fn parse(text: &str) -> Option<(Cost, Vec<u8>, Vec<u8>)> {
    let rest = text.strip_prefix("$argon2id$v=19$")?;
    let [cost, salt, digest] = rest.split('$').collect::<Vec<_>>().try_into().ok()?;
    let [memory, passes, lanes] = cost.split(',').collect::<Vec<_>>().try_into().ok()?;
    let number = |part: &str, name: &str| part.strip_prefix(name)?.parse().ok();
    let cost = Cost { memory_kib: number(memory, "m=")?, passes: number(passes, "t=")?, lanes: number(lanes, "p=")? };
    Some((cost, STANDARD_NO_PAD.decode(salt).ok()?, STANDARD_NO_PAD.decode(digest).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_matches_its_own_hash_alone() {
        let stored = hash("correct horse battery", &[7; 16]);
        assert!(stored.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(matches("correct horse battery", Some(&stored)));
        assert!(!matches("correct horse batterz", Some(&stored)));
        assert!(!matches("correct horse battery", None));
        assert!(!matches("correct horse battery", Some(&Secret::stored("$argon2id$v=19$m=1".into()))));
        assert!(!matches(&"x".repeat(MAX_BYTES + 1), Some(&stored)));
    }

    #[test]
    fn hashes_are_those_of_the_reference_implementation() {
        // printf password | argon2 somesalt -id -t 2 -m 16 -p 1, from its test vectors.
        let cost = Cost { memory_kib: 65_536, passes: 2, lanes: 1 };
        let found = digest("password", b"somesalt", cost).unwrap();
        assert_eq!(hex::encode(found), "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    }
}
