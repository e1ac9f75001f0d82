//! How do users manage their own keys? Where the operator allows it, and never beyond the rights of the key they use.
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};

use super::admin::key_bodies::{CreateKey, CreatedKey, KeyList, RevokedKey};
use super::answers;
use super::auth::Caller;
use super::body::JsonObject;
use super::error::ApiError;
use super::names::KnownModels;
use crate::relay::Meters;
use crate::store::{Access, Accounts, AllowedModels, Key, KeySpec, LimitsChange};
use limits::Limits;

/// Whether users may manage their own keys.
#[derive(Clone, Copy, Debug)]
pub struct SelfService(pub bool);

/// The caller's own key, if it may manage keys at all.
fn own_key(allowed: SelfService, access: &Access) -> Result<&Arc<Key>, ApiError> {
    if !allowed.0 {
        return Err(ApiError::forbidden(
            "Keys are managed by the operator of this service. Ask there for another key.",
        ));
    }
    let no_key = "You came without a key, as your network stands for you. Keys can be managed only with a key.";
    access.key().ok_or_else(|| ApiError::forbidden(no_key))
}

/// What is asked for, within the rights of the key that asks: what is absent is as that key has it.
fn within(own: &KeySpec, given: LimitsChange, mut asked: KeySpec) -> Result<KeySpec, ApiError> {
    let above = |field: &'static str| {
        let message = format!("`{field}` would be more than your own key has: ask for at most as much.");
        Err(ApiError::forbidden(message))
    };
    asked.limits = given.over(own.limits);
    if let Some(field) = first_above(&asked.limits, &own.limits) {
        return above(field);
    }
    if let Some(end) = own.expires_at_ms {
        asked.expires_at_ms = asked.expires_at_ms.or(Some(end));
        if asked.expires_at_ms > Some(end) {
            return above("expires_at");
        }
    }
    if let Some(allowed) = &own.allowed_models {
        let models = asked.allowed_models.get_or_insert_with(|| allowed.clone());
        if !is_part(models, allowed) {
            return above("allowed_models");
        }
    }
    Ok(asked)
}

fn is_part(models: &AllowedModels, of: &AllowedModels) -> bool {
    models.names().iter().all(|name| of.allow(name))
}

/// The first limit that is looser than that of the key which asks.
fn first_above(asked: &Limits, own: &Limits) -> Option<&'static str> {
    fn is_above<T: PartialOrd + Copy>(asked: Option<T>, own: Option<T>) -> bool {
        own.is_some_and(|own| asked.is_none_or(|asked| asked > own))
    }
    [
        ("requests_per_minute", is_above(asked.requests_per_minute, own.requests_per_minute)),
        ("tokens_per_minute", is_above(asked.tokens_per_minute, own.tokens_per_minute)),
        ("tokens_per_day", is_above(asked.tokens_per_day, own.tokens_per_day)),
        ("max_concurrency", is_above(asked.max_concurrency, own.max_concurrency)),
    ]
    .into_iter()
    .find_map(|(name, is_above)| is_above.then_some(name))
}

/// Own keys
///
/// Never a secret. Only where the operator allows it (`keys.self_service`).
#[utoipa::path(
    get, path = "/v1/me/keys", tag = "usage", security(("user_key" = [])),
    responses((status = 200, body = KeyList), answers::AuthResponses, answers::StorageResponse),
)]
pub async fn list(
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    allowed: Data<SelfService>,
    Caller(access): Caller,
) -> Result<Json<KeyList>, ApiError> {
    own_key(**allowed, &access)?;
    let now = meters.clock.now();
    Ok(Json(KeyList::new(&accounts.keys_of(access.user().as_str(), now).await?, now.unix_ms)))
}

/// Make an own key
///
/// It has at most the rights of the key that asks: what is absent is as that key has it. Only where the operator allows it.
#[utoipa::path(
    post, path = "/v1/me/keys", tag = "usage", security(("user_key" = [])), request_body = CreateKey,
    responses(
        (status = 201, body = CreatedKey),
        (status = 409, description = "You have a key of this name.", body = answers::ErrorBody),
        answers::AuthResponses, answers::StorageResponse,
    ),
)]
pub async fn create(
    accounts: Data<Accounts>,
    meters: Data<Meters>,
    allowed: Data<SelfService>,
    models: KnownModels,
    Caller(access): Caller,
    JsonObject(body): JsonObject<CreateKey>,
) -> Result<HttpResponse, ApiError> {
    let own = own_key(**allowed, &access)?.spec();
    let now = meters.clock.now();
    let given = body.limits_given();
    let (name, asked) = body.spec(now.unix_ms)?;
    let spec = within(&own, given, asked)?;
    let made = accounts.create_key(access.user().as_str(), name, spec, now).await?;
    tracing::info!(user = access.user().as_str(), key = &**made.key.id(), "key made by its user");
    Ok(HttpResponse::Created().json(CreatedKey::new(&made, now.unix_ms).with_warnings(&models)))
}

/// Revoke an own key
///
/// It stops working at once, and running requests that came with it end. Only where the operator allows it.
#[utoipa::path(
    delete, path = "/v1/me/keys/{key_id}", tag = "usage", security(("user_key" = [])),
    params(("key_id" = String, Path, description = "The key.")),
    responses(
        (status = 200, body = RevokedKey), answers::AuthResponses, answers::NotFoundResponse, answers::StorageResponse,
    ),
)]
pub async fn revoke(
    accounts: Data<Accounts>,
    allowed: Data<SelfService>,
    Caller(access): Caller,
    id: Path<String>,
) -> Result<Json<RevokedKey>, ApiError> {
    own_key(**allowed, &access)?;
    let user = access.user().as_str();
    accounts.revoke_key(user, &id).await?;
    tracing::info!(user, key = id.as_str(), "key revoked by its user");
    Ok(Json(RevokedKey::new(id.into_inner())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(names: &[&str]) -> Option<AllowedModels> {
        Some(AllowedModels::new(names.iter().map(|name| (*name).to_owned())))
    }

    #[test]
    fn a_new_key_has_at_most_the_rights_of_the_one_that_asks() {
        let limits = Limits { requests_per_minute: Some(10), ..Limits::default() };
        let own = KeySpec {
            limits,
            expires_at_ms: Some(100),
            allowed_models: models(&["llama3.2", "qwen3"]),
            ..KeySpec::default()
        };
        let none = LimitsChange::default();
        let same = within(&own, none, KeySpec::default()).unwrap();
        assert_eq!((same.limits, same.expires_at_ms, &same.allowed_models), (limits, Some(100), &own.allowed_models));

        let less = KeySpec { expires_at_ms: Some(99), allowed_models: models(&["qwen3:latest"]), ..KeySpec::default() };
        let fewer = LimitsChange { requests_per_minute: Some(Some(9)), tokens_per_day: Some(Some(1)), ..none };
        let made = within(&own, fewer, less.clone()).unwrap();
        assert_eq!((made.limits.requests_per_minute, made.limits.tokens_per_day), (Some(9), Some(1)));
        assert_eq!((made.expires_at_ms, made.allowed_models), (Some(99), less.allowed_models));

        let change = |requests| LimitsChange { requests_per_minute: Some(requests), ..none };
        for (field, given, asked) in [
            ("requests_per_minute", change(Some(11)), KeySpec::default()),
            ("requests_per_minute", change(None), KeySpec::default()),
            ("expires_at", none, KeySpec { expires_at_ms: Some(101), ..KeySpec::default() }),
            ("allowed_models", none, KeySpec { allowed_models: models(&["qwen3", "llava"]), ..KeySpec::default() }),
        ] {
            let refused = within(&own, given, asked).unwrap_err();
            assert_eq!(refused.code(), 403);
            assert!(refused.object().message.contains(field), "{field}: {}", refused.object().message);
        }
    }
}
