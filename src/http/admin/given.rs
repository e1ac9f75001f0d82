//! What do request bodies of the operator's routes have in common? Limits, weights, and nulls that mean something.
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;
use crate::store::LimitsChange;
use limits::Limits;

/// Far above what anybody needs; keeps the log of one user's minute small.
const MAX_REQUESTS: u64 = 1_000_000;
const MAX_TOKENS: u64 = 1_000_000_000_000_000;
const MIN_WEIGHT: f64 = 0.001;
const MAX_WEIGHT: f64 = 1000.0;

/// Tells an absent field (`None`) from an explicit null (`Some(None)`).
pub(super) fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// Declares a request body that has the four limits beside fields of its own. serde cannot flatten a struct into one that
/// denies unknown fields.
macro_rules! body_with_limits {
    ($(#[$attribute:meta])* pub struct $name:ident { $($fields:tt)* }) => {
        $(#[$attribute])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($fields)*
            /// Admissions in any 60 s; null = no limit.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u32>, maximum = 1_000_000, example = 10)]
            requests_per_minute: Option<Option<u32>>,
            /// Prompt and completion tokens of the requests admitted in any 60 s; null = no limit.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_000_u64)]
            tokens_per_minute: Option<Option<u64>>,
            /// Prompt and completion tokens per UTC day; null = no limit.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u64>, maximum = 1_000_000_000_000_000_u64, example = 10000)]
            tokens_per_day: Option<Option<u64>>,
            /// Requests at a time, waiting ones included; null = no limit.
            #[serde(default, deserialize_with = "present")]
            #[schema(value_type = Option<u32>, maximum = 1_000_000)]
            max_concurrency: Option<Option<u32>>,
        }

        impl $name {
            /// What it says of limits.
            fn limits(&self) -> crate::store::LimitsChange {
                crate::store::LimitsChange {
                    requests_per_minute: self.requests_per_minute,
                    tokens_per_minute: self.tokens_per_minute,
                    tokens_per_day: self.tokens_per_day,
                    max_concurrency: self.max_concurrency,
                }
            }
        }
    };
}
pub(super) use body_with_limits;

/// `base` with the given limits in their place, if all are within bounds.
pub(super) fn limits_over(base: Limits, given: LimitsChange) -> Result<Limits, ApiError> {
    let within = |name: &'static str, given: Option<u64>, most: u64| match given {
        Some(limit) if limit > most => {
            let message = format!("`{name}` must be 0 to {most}, or null for no limit.");
            Err(ApiError::invalid_field(name, message))
        }
        _ => Ok(()),
    };
    let limits = given.over(base);
    within("requests_per_minute", limits.requests_per_minute.map(u64::from), MAX_REQUESTS)?;
    within("tokens_per_minute", limits.tokens_per_minute, MAX_TOKENS)?;
    within("tokens_per_day", limits.tokens_per_day, MAX_TOKENS)?;
    within("max_concurrency", limits.max_concurrency.map(u64::from), MAX_REQUESTS)?;
    Ok(limits)
}

/// A limit of tokens that is given, if it is within bounds.
pub(super) fn checked_tokens(name: &'static str, given: Option<u64>) -> Result<Option<u64>, ApiError> {
    match given {
        Some(limit) if limit > MAX_TOKENS => {
            let message = format!("`{name}` must be 0 to {MAX_TOKENS}, or null for no limit.");
            Err(ApiError::invalid_field(name, message))
        }
        given => Ok(given),
    }
}

/// Limits as they are shown.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ShownLimits {
    /// Admissions in any 60 s; null = no limit.
    requests_per_minute: Option<u32>,
    /// Prompt and completion tokens of the requests admitted in any 60 s; null = no limit.
    tokens_per_minute: Option<u64>,
    /// Prompt and completion tokens per UTC day; null = no limit.
    tokens_per_day: Option<u64>,
    /// Requests at a time, waiting ones included; null = no limit.
    max_concurrency: Option<u32>,
}

impl From<Limits> for ShownLimits {
    fn from(limits: Limits) -> Self {
        let Limits { requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency } = limits;
        Self { requests_per_minute, tokens_per_minute, tokens_per_day, max_concurrency }
    }
}

pub(super) fn checked_weight(weight: f64) -> Result<f64, ApiError> {
    if (MIN_WEIGHT..=MAX_WEIGHT).contains(&weight) {
        return Ok(weight);
    }
    let message = format!("`weight` must be a number from {MIN_WEIGHT} to {MAX_WEIGHT}.");
    Err(ApiError::invalid_field("weight", message))
}
