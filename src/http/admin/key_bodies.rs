//! What is given of a key when it is made or changed, and what is shown of it?
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::given::{ShownLimits, body_with_limits, limits_over, present};
use crate::http::error::ApiError;
use crate::http::names::KnownModels;
use crate::http::time::{moment, rfc3339};
use crate::store::{AllowedModels, Key, KeyChange, KeySpec, LimitsChange, MadeKey, SecretEnd};
use limits::Limits;

const MAX_MODELS: usize = 100;

body_with_limits! {
    /// A key to be made.
    pub struct CreateKey {
        /// For lists, 1 to 64 characters, unlike those of the user's other keys. Default `default`, or `default-2` and so on.
        #[schema(example = "laptop", min_length = 1, max_length = 64)]
        name: Option<String>,
        /// When it ends, RFC 3339, or a date (UTC). Null or absent = never.
        #[schema(example = "2027-01-01")]
        expires_at: Option<String>,
        /// The models that it may be used for, as /v1/models lists them; a name without a tag means `:latest`. Null or absent =
        /// all, also those to come.
        #[schema(example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Vec<String>>,
    }
}

body_with_limits! {
    /// A change of a key: absent = unchanged.
    pub struct ChangeKey {
        /// For lists, 1 to 64 characters, unlike those of the user's other keys. Null = `default`, or `default-2` and so on.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<String>, example = "laptop", min_length = 1, max_length = 64)]
        name: Option<Option<String>>,
        /// When it ends, RFC 3339, or a date (UTC). Null = never; one that has ended works again then.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<String>, example = "2027-01-01")]
        expires_at: Option<Option<String>>,
        /// The models that it may be used for. Null = all, also those to come.
        #[serde(default, deserialize_with = "present")]
        #[schema(value_type = Option<Vec<String>>, example = json!(["llama3.2", "llava"]))]
        allowed_models: Option<Option<Vec<String>>>,
    }
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserKey {
    /// Names the key in this API; no secret.
    #[schema(example = "key_0123456789abcdef0123456789abcdef")]
    id: String,
    /// Whose it is.
    #[schema(example = "user-123")]
    user_id: String,
    /// For lists.
    #[schema(example = "laptop")]
    name: String,
    /// How its secret begins.
    #[schema(example = "sk-user-123-")]
    prefix: String,
    /// How its secret ends.
    #[schema(example = "cdef")]
    last_four: String,
    /// RFC 3339 in UTC.
    created_at: String,
    /// RFC 3339 in UTC; null = it does not end.
    expires_at: Option<String>,
    /// RFC 3339 in UTC, to the minute; null = never.
    last_used_at: Option<String>,
    /// The models that it may be used for; null = all.
    allowed_models: Option<Vec<String>>,
    /// Its own limits, under those of the user.
    #[serde(flatten)]
    limits: ShownLimits,
    /// The secret before the last rotation, as long as it works.
    previous: Option<PreviousSecret>,
}

/// A secret that was rotated out.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviousSecret {
    /// How it ends.
    last_four: String,
    /// When it stops, RFC 3339 in UTC.
    expires_at: String,
}

/// A key with a secret that is not shown again.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedKey {
    #[serde(flatten)]
    key: UserKey,
    /// Shown this once; only a digest of it is kept.
    #[schema(example = "sk-user-123-0123456789abcdef0123456789abcdef")]
    api_key: String,
    /// What may be a mistake, such as a model that no node has.
    warnings: Vec<String>,
}

/// A key that was changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedKey {
    #[serde(flatten)]
    key: UserKey,
    /// What may be a mistake, such as a model that no node has.
    warnings: Vec<String>,
}

/// A user's keys, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// Always `list`.
    object: &'static str,
    /// The keys.
    data: Vec<UserKey>,
}

impl PreviousSecret {
    /// `None` where it has stopped.
    pub(super) fn new(secret: SecretEnd, now_ms: i64) -> Option<Self> {
        let until = secret.until_ms.filter(|until| *until > now_ms)?;
        Some(Self { last_four: secret.last_four, expires_at: rfc3339(until) })
    }
}

impl UserKey {
    pub(in crate::http) fn new(key: &Key, now_ms: i64) -> Self {
        let user = key.account().user().as_str();
        let spec = key.spec();
        let mut secrets = key.secrets();
        let in_force = secrets.pop();
        let previous = secrets.pop().and_then(|secret| PreviousSecret::new(secret, now_ms));
        Self {
            id: key.id().to_string(),
            user_id: user.to_owned(),
            name: spec.name,
            prefix: format!("sk-{user}-"),
            last_four: in_force.map(|secret| secret.last_four).unwrap_or_default(),
            created_at: rfc3339(key.created_at_ms()),
            expires_at: spec.expires_at_ms.map(rfc3339),
            last_used_at: key.last_used_ms().map(rfc3339),
            allowed_models: spec.allowed_models.map(|models| models.names().to_vec()),
            limits: spec.limits.into(),
            previous,
        }
    }
}

impl UserKey {
    fn warnings(&self, models: &KnownModels) -> Vec<String> {
        models.warnings(self.allowed_models.as_deref().unwrap_or_default())
    }
}

impl CreatedKey {
    pub(in crate::http) fn new(made: &MadeKey, now_ms: i64) -> Self {
        let key = UserKey::new(&made.key, now_ms);
        Self { key, api_key: made.secret.reveal().to_owned(), warnings: Vec::new() }
    }

    pub(in crate::http) fn with_warnings(mut self, models: &KnownModels) -> Self {
        self.warnings = self.key.warnings(models);
        self
    }
}

impl ChangedKey {
    pub(super) fn new(key: &Key, now_ms: i64, models: &KnownModels) -> Self {
        let key = UserKey::new(key, now_ms);
        Self { warnings: key.warnings(models), key }
    }
}

impl KeyList {
    pub(in crate::http) fn new(keys: &[Arc<Key>], now_ms: i64) -> Self {
        Self { object: "list", data: keys.iter().map(|key| UserKey::new(key, now_ms)).collect() }
    }
}

impl RevokedKey {
    pub(in crate::http) fn new(id: String) -> Self {
        Self { id, deleted: true }
    }
}

impl CreateKey {
    /// The name, if one is given, and the rest.
    pub(in crate::http) fn spec(self, now_ms: i64) -> Result<(Option<String>, KeySpec), ApiError> {
        let limits = limits_over(Limits::default(), self.limits())?;
        let name = self.name.map(checked).transpose()?;
        let expires_at_ms = end(self.expires_at.as_deref(), now_ms)?;
        let allowed_models = self.allowed_models.map(allowed).transpose()?;
        Ok((name, KeySpec { expires_at_ms, allowed_models, limits, ..KeySpec::default() }))
    }

    /// What it says of limits; absent and null are told apart.
    pub(in crate::http) fn limits_given(&self) -> LimitsChange {
        self.limits()
    }
}

impl ChangeKey {
    pub(super) fn change(self, now_ms: i64) -> Result<KeyChange, ApiError> {
        let limits = self.limits();
        limits_over(Limits::default(), limits)?;
        let named = |name: Option<String>| name.map(checked).transpose();
        Ok(KeyChange {
            name: self.name.map(named).transpose()?,
            expires_at_ms: self.expires_at.map(|given| end(given.as_deref(), now_ms)).transpose()?,
            allowed_models: self.allowed_models.map(|given| given.map(allowed).transpose()).transpose()?,
            limits,
        })
    }
}

fn checked(name: String) -> Result<String, ApiError> {
    if !(1..=64).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(ApiError::invalid_field("name", "`name` must be 1 to 64 printable characters."));
    }
    Ok(name)
}

pub(super) fn end(given: Option<&str>, now_ms: i64) -> Result<Option<i64>, ApiError> {
    let end_ms = moment("expires_at", given)?;
    if end_ms.is_some_and(|end_ms| end_ms <= now_ms) {
        return Err(ApiError::invalid_field("expires_at", "`expires_at` is in the past."));
    }
    Ok(end_ms)
}

/// A list of models that is given, if it is within bounds.
pub(super) fn allowed(names: Vec<String>) -> Result<AllowedModels, ApiError> {
    let is_name = |name: &String| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        (1..=128).contains(&name.len()) && name.bytes().all(letter)
    };
    if !(1..=MAX_MODELS).contains(&names.len()) || !names.iter().all(is_name) {
        let message = format!("`allowed_models` must be 1 to {MAX_MODELS} names of models, or null for all of them.");
        return Err(ApiError::invalid_field("allowed_models", message));
    }
    Ok(AllowedModels::new(names))
}

/// A key that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevokedKey {
    /// Which.
    id: String,
    /// Always true.
    deleted: bool,
}
