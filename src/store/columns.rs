//! Converts the columns of users and keys to the types of the request path, and back.
use std::borrow::Cow;
use std::sync::Arc;

use entity::{key, key_digest, user, user_group};
use serde::Deserialize;

use super::account::{Profile, Terms, UserEntry, UserId};
use super::allowed_models::AllowedModels;
use super::directory::{Directory, KeyEntry, SecretEntry};
use super::group::{GroupEntry, GroupTerms};
use super::key::KeySpec;
use super::keys::{KeyDigest, Peppers, SecretEnd};
use limits::Limits;

/// `None` where the name cannot be one.
pub(super) fn user_entry(row: &user::Model) -> Option<UserEntry> {
    Some(UserEntry {
        user: UserId::parse(&row.id)?,
        created_at_ms: row.created_at_ms,
        generation: u32::try_from(row.generation).unwrap_or(u32::MAX),
        terms: terms_of(row),
        profile: profile_of(row),
        last_seen_ms: row.last_seen_ms.unwrap_or_default(),
        group: row.group_id.as_deref().map(Arc::from),
    })
}

fn profile_of(row: &user::Model) -> Option<Arc<Profile>> {
    let profile = Profile {
        suspended_at_ms: row.suspended_at_ms,
        display_name: row.display_name.clone(),
        email: row.email.clone(),
        note: row.note.clone(),
    };
    (profile != Profile::default()).then(|| Arc::new(profile))
}

pub(super) fn put_user(directory: &mut Directory, row: &user::Model) -> bool {
    match user_entry(row) {
        Some(entry) => directory.put_user(entry),
        None => {
            tracing::warn!("the database has a user whose name cannot be used");
            false
        }
    }
}

/// The columns of a key, of which many are read at a time without a copy of each text.
#[derive(Deserialize)]
pub(super) struct KeyColumns<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) user_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) created_at_ms: i64,
    pub(super) last_used_ms: Option<i64>,
    /// `None` where each of them is null.
    pub(super) terms: Option<TermColumns>,
}

/// The columns of what a key may do.
#[derive(Deserialize)]
pub(super) struct TermColumns {
    pub(super) expires_at_ms: Option<i64>,
    pub(super) allowed_models: Option<String>,
    pub(super) requests_per_minute: Option<i64>,
    pub(super) tokens_per_minute: Option<i64>,
    pub(super) tokens_per_day: Option<i64>,
    pub(super) max_concurrency: Option<i64>,
}

impl<'a> KeyColumns<'a> {
    pub(super) fn of(row: &'a key::Model) -> Self {
        Self {
            id: row.id.as_str().into(),
            user_id: row.user_id.as_str().into(),
            name: row.name.as_str().into(),
            created_at_ms: row.created_at_ms,
            last_used_ms: row.last_used_ms,
            terms: Some(TermColumns {
                expires_at_ms: row.expires_at_ms,
                allowed_models: row.allowed_models.clone(),
                requests_per_minute: row.requests_per_minute,
                tokens_per_minute: row.tokens_per_minute,
                tokens_per_day: row.tokens_per_day,
                max_concurrency: row.max_concurrency,
            }),
        }
    }

    pub(super) fn entry(&self) -> KeyEntry<'_> {
        let terms = self.terms.as_ref();
        let limits = |terms: &TermColumns| {
            limits_of(terms.requests_per_minute, terms.tokens_per_minute, terms.tokens_per_day, terms.max_concurrency)
        };
        let spec = KeySpec {
            name: self.name.as_ref().to_owned(),
            expires_at_ms: terms.and_then(|terms| terms.expires_at_ms),
            allowed_models: terms.and_then(|terms| terms.allowed_models.as_deref()).map(models_of),
            limits: terms.map(limits).unwrap_or_default(),
        };
        KeyEntry {
            id: &self.id,
            user: &self.user_id,
            created_at_ms: self.created_at_ms,
            last_used_ms: self.last_used_ms,
            spec,
        }
    }
}

/// The columns of a digest, without its key.
pub(super) struct DigestColumns<'a> {
    pub(super) digest: &'a [u8],
    pub(super) pepper: Option<&'a str>,
    pub(super) last_four: &'a str,
    pub(super) until_ms: Option<i64>,
}

impl DigestColumns<'_> {
    /// `None` if the digest has the wrong length.
    pub(super) fn entry(&self, peppers: &Peppers) -> Option<SecretEntry> {
        let digest = self.digest.try_into().map(KeyDigest).ok()?;
        let end = SecretEnd { digest, last_four: self.last_four.to_owned(), until_ms: self.until_ms };
        Some(SecretEntry { end, is_foreign: !peppers.knows(self.pepper) })
    }
}

/// `None` if the digest has the wrong length.
pub(super) fn secret_entry(row: &key_digest::Model, peppers: &Peppers) -> Option<SecretEntry> {
    let key_digest::Model { digest, pepper, last_four, expires_at_ms, .. } = row;
    DigestColumns { digest, pepper: pepper.as_deref(), last_four, until_ms: *expires_at_ms }.entry(peppers)
}

fn terms_of(row: &user::Model) -> Terms {
    let limits = limits_of(row.requests_per_minute, row.tokens_per_minute, row.tokens_per_day, row.max_concurrency);
    Terms { limits, weight: row.weight_millis.max(1) as f64 / 1000.0 }
}

/// An unreadable list allows no model, rather than every model.
fn models_of(names: &str) -> AllowedModels {
    AllowedModels::new(serde_json::from_str::<Vec<String>>(names).unwrap_or_default())
}

pub(super) fn group_entry(row: &user_group::Model) -> GroupEntry {
    let limits = limits_of(row.requests_per_minute, row.tokens_per_minute, row.tokens_per_day, row.max_concurrency);
    GroupEntry {
        name: row.id.as_str().into(),
        generation: u32::try_from(row.generation).unwrap_or(u32::MAX),
        created_at_ms: row.created_at_ms,
        terms: GroupTerms {
            limits,
            tokens_per_month: row.tokens_per_month.map(|limit| u64::try_from(limit).unwrap_or(0)),
            weight: row.weight_millis.max(1) as f64 / 1000.0,
            allowed_models: row.allowed_models.as_deref().map(models_of),
        },
    }
}

pub(super) fn to_millis(weight: f64) -> i64 {
    // A weight is between 0.001 and 1000, which `http` checks.
    ((weight * 1000.0).round() as i64).max(1)
}

fn limits_of(
    requests_per_minute: Option<i64>,
    tokens_per_minute: Option<i64>,
    tokens_per_day: Option<i64>,
    max_concurrency: Option<i64>,
) -> Limits {
    let small = |limit: i64| u32::try_from(limit.max(0)).unwrap_or(u32::MAX);
    let large = |limit: i64| u64::try_from(limit).unwrap_or(0);
    Limits {
        requests_per_minute: requests_per_minute.map(small),
        tokens_per_minute: tokens_per_minute.map(large),
        tokens_per_day: tokens_per_day.map(large),
        max_concurrency: max_concurrency.map(small),
    }
}

pub(super) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
