//! The vault: secrets of plugin configs are sealed before they are stored, and opened where a plugin is called.
//!
//! XChaCha20-Poly1305 with a nonce drawn at random for each member, under the first of the keys in `secrets.keys`; every
//! other key there still opens. A sealed member is bound to its place (community, plugin, instance, pointer), so that a
//! row's text is worth nothing in another row. The store holds a [`SealedConfig`], which only a vault opens, so nobody
//! forgets to. It keeps no connection and reads no setting. Up: `src/host`, which loads and enables instances. Down:
//! [`sealed`], the form in which members are stored.

mod key;
mod sealed;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use metagov_sdk::{
    PluginDefinition,
    contract::{CommunitySlug, Name},
};
use rand::TryRngCore as _;
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

use self::{key::KeyId, sealed::Sealed};
pub use self::{
    key::{InvalidKey, KeyEntry},
    sealed::SealedConfig,
};

/// How long a nonce is.
const NONCE: usize = 24;

/// Why a config cannot be sealed or opened. Nothing of the config is in it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VaultError {
    /// There is something to seal and nothing to seal it with.
    #[error(
        "the config holds secrets and this service has no key to seal them with; its operator sets secrets.keys to what \
         `metagov keys generate` prints"
    )]
    NoKey,
    /// Sealed under a key that this process does not have.
    #[error("a config is sealed under the key '{id}', which is not among secrets.keys of this process")]
    UnknownKey {
        /// The id of the key.
        id: String,
    },
    /// The sealed text was changed, or belongs somewhere else.
    #[error("what is sealed at {pointer} under the key '{id}' does not open here: it was changed, or moved")]
    Damaged {
        /// The id of the key.
        id: String,
        /// The place in the config.
        pointer: String,
    },
}

/// Whose config it is: what a sealed member is bound to, together with its place in the config.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'o> {
    /// The community.
    pub community: &'o CommunitySlug,
    /// The plugin.
    pub plugin: &'o Name,
    /// The plugin instance.
    pub instance: Uuid,
}

impl Owner<'_> {
    /// A list in JSON: no two places are written alike.
    fn associated_data(&self, pointer: &str) -> Vec<u8> {
        let place = ("metagov/config/1", self.community.as_str(), self.plugin.as_str(), self.instance, pointer);
        serde_json::to_vec(&place).expect("texts can be written as JSON")
    }
}

/// The keys of this process. A cheap handle.
#[derive(Clone, Default)]
pub struct Vault {
    keys: Arc<[(KeyId, XChaCha20Poly1305)]>,
}

/// Keys do not print themselves.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.key_ids()).finish()
    }
}

impl Vault {
    /// A vault with these keys; the first one seals.
    #[must_use]
    pub fn new(keys: &[KeyEntry]) -> Self {
        Self { keys: keys.iter().map(KeyEntry::cipher).collect() }
    }

    /// The ids of the keys, the one that seals first.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// Refuses a config that this vault could not seal, before anything is done for it.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn can_seal(&self, definition: &PluginDefinition, config: &Value) -> Result<(), VaultError> {
        let secrets = sealed::places(Some(definition), config);
        if self.keys.is_empty() && !secrets.is_empty() { Err(VaultError::NoKey) } else { Ok(()) }
    }

    /// Seals every secret of a config under the first key.
    ///
    /// # Errors
    /// [`VaultError::NoKey`] where there is a secret and no key.
    pub fn seal(
        &self,
        definition: &PluginDefinition,
        owner: Owner<'_>,
        config: &Value,
    ) -> Result<SealedConfig, VaultError> {
        let mut sealed = config.clone();
        for pointer in sealed::places(Some(definition), config) {
            if let Some(member) = sealed.pointer_mut(&pointer) {
                *member = self.seal_member(owner, &pointer, member)?.into();
            }
        }
        Ok(SealedConfig(sealed))
    }

    /// Opens every sealed member of a config, under whichever key it was sealed. What was stored in the clear, before
    /// there were keys, stays as it is.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`], [`VaultError::Damaged`].
    pub fn open(&self, owner: Owner<'_>, config: &SealedConfig) -> Result<Value, VaultError> {
        let mut opened = config.0.clone();
        for (pointer, member) in sealed::members(&config.0) {
            if let Some(place) = opened.pointer_mut(&pointer) {
                *place = self.open_member(owner, &pointer, &member)?;
            }
        }
        Ok(opened)
    }

    /// The config with all its secrets under the first key; `None` where they are already. Without the plugin's
    /// definition only what is sealed already is known to be a secret.
    ///
    /// # Errors
    /// As [`Self::seal`] and [`Self::open`].
    pub fn reseal(
        &self,
        definition: Option<&PluginDefinition>,
        owner: Owner<'_>,
        config: &SealedConfig,
    ) -> Result<Option<SealedConfig>, VaultError> {
        let members = sealed::members(&config.0);
        let clear = config.clear_secrets(definition);
        let first = self.key_ids().next();
        if clear.is_empty() && members.values().all(|member| Some(member.key.as_str()) == first) {
            return Ok(None);
        }
        let mut resealed = self.open(owner, config)?;
        for pointer in sealed::outermost(&members.into_keys().chain(clear).collect()) {
            if let Some(member) = resealed.pointer_mut(&pointer) {
                *member = self.seal_member(owner, &pointer, member)?.into();
            }
        }
        Ok(Some(SealedConfig(resealed)))
    }

    fn seal_member(&self, owner: Owner<'_>, pointer: &str, member: &Value) -> Result<Sealed, VaultError> {
        let (id, cipher) = self.keys.first().ok_or(VaultError::NoKey)?;
        let mut nonce = [0; NONCE];
        rand::rngs::OsRng.try_fill_bytes(&mut nonce).expect("the operating system gives random numbers");
        let clear = serde_json::to_vec(member).expect("a JSON value can be written as JSON");
        let payload = Payload { msg: &clear, aad: &owner.associated_data(pointer) };
        let text = cipher.encrypt(&XNonce::from(nonce), payload).expect("a config is shorter than the cipher's limit");
        Ok(Sealed { key: id.clone(), bytes: [&nonce[..], &text].concat() })
    }

    fn open_member(&self, owner: Owner<'_>, pointer: &str, member: &Sealed) -> Result<Value, VaultError> {
        let known = self.keys.iter().find(|(id, _)| *id == member.key);
        let id = || member.key.as_str().to_owned();
        let (_, cipher) = known.ok_or_else(|| VaultError::UnknownKey { id: id() })?;
        let opened = member.bytes.split_first_chunk::<NONCE>().and_then(|(nonce, text)| {
            let payload = Payload { msg: text, aad: &owner.associated_data(pointer) };
            let clear = cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
            serde_json::from_slice(&clear).ok()
        });
        opened.ok_or_else(|| VaultError::Damaged { id: id(), pointer: pointer.to_owned() })
    }
}
