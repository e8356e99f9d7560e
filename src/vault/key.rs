//! Keys, as `secrets.keys` lists them: an id that may be seen, and 32 bytes that may not.
//!
//! Up: [`crate::config`], which checks the entries, and `metagov keys generate`, which draws new ones. Down:
//! [`super::Vault`].

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use rand::TryRngCore as _;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

/// How long a key is.
const LENGTH: usize = 32;

/// What tells keys apart; it stands in front of everything that was sealed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct KeyId(String);

impl KeyId {
    /// An id as it stands in a row; one that no key can have fits none.
    pub(super) fn stored(text: &str) -> Self {
        Self(if is_id(text) { text.to_owned() } else { "(unreadable)".to_owned() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An entry of `secrets.keys` is not usable. It is not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidKey {
    /// No id in front, or one with other characters.
    #[error(
        "each key must be `<id>:<base64>`, with an id of 1 to 32 of a-z, A-Z, 0-9, - and _; `metagov keys generate` prints one"
    )]
    Id,
    /// Not the right number of bytes.
    #[error("each key must have 32 bytes in base64 after its id; `metagov keys generate` prints one")]
    Bytes,
    /// Two keys with one id.
    #[error("two keys have the same id")]
    Repeated,
}

/// A key with its id. It does not print itself.
#[derive(Clone)]
pub struct KeyEntry {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyEntry").field(&self.id.0).finish()
    }
}

impl KeyEntry {
    /// Reads one entry, `<id>:<base64 of 32 bytes>`.
    ///
    /// # Errors
    /// [`InvalidKey`], without the entry.
    pub fn parse(entry: &str) -> Result<Self, InvalidKey> {
        let (id, key) = entry.split_once(':').filter(|(id, _)| is_id(id)).ok_or(InvalidKey::Id)?;
        let bytes = STANDARD.decode(key).map_err(|_| InvalidKey::Bytes)?;
        let bytes: [u8; LENGTH] = bytes.try_into().map_err(|_| InvalidKey::Bytes)?;
        Ok(Self { id: KeyId(id.to_owned()), cipher: XChaCha20Poly1305::new(&bytes.into()) })
    }

    /// Reads all entries.
    ///
    /// # Errors
    /// [`InvalidKey`] for the first that is not usable, or whose id was there before.
    pub fn parse_all<'e>(entries: impl IntoIterator<Item = &'e str>) -> Result<Vec<Self>, InvalidKey> {
        let mut keys: Vec<Self> = Vec::new();
        for entry in entries {
            let key = Self::parse(entry)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(InvalidKey::Repeated);
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The same, of secrets.
    ///
    /// # Errors
    /// As [`Self::parse_all`].
    pub fn parse_secrets(entries: &[SecretString]) -> Result<Vec<Self>, InvalidKey> {
        Self::parse_all(entries.iter().map(ExposeSecret::expose_secret))
    }

    /// Draws a new entry, with an id that nobody has used.
    ///
    /// # Panics
    /// Where the operating system gives no random numbers.
    #[must_use]
    pub fn generate() -> SecretString {
        let (mut key, mut id) = ([0; LENGTH], [0; 4]);
        for bytes in [&mut key[..], &mut id[..]] {
            rand::rngs::OsRng.try_fill_bytes(bytes).expect("the operating system gives random numbers");
        }
        format!("k{:08x}:{}", u32::from_be_bytes(id), STANDARD.encode(key)).into()
    }

    pub(super) fn cipher(&self) -> (KeyId, XChaCha20Poly1305) {
        (self.id.clone(), self.cipher.clone())
    }
}

fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
