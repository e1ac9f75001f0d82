//! The record of one request, as requests hand it in and as the database stores it.
use std::borrow::Cow;
use std::sync::Arc;

use entity::usage::{Entity, Model};
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DbErr, EntityTrait, QuerySelect, QueryTrait};
use uuid::Uuid;

use super::many;
use super::usage_id::name_of;

/// A UTC day in milliseconds.
pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The client got the whole answer.
    Completed,
    /// The client left, queued or running.
    Cancelled,
    /// No node gave a whole answer.
    UpstreamError,
    /// A deadline passed.
    Deadline,
    /// Not served: a limit was reached, the queue was full, no node was there, or a node said that the request is at
    /// fault.
    Refused,
    /// The gateway stopped in the middle of it.
    Interrupted,
}

impl Status {
    /// The word in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::UpstreamError => "upstream_error",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Where the token counts of a row come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensFrom {
    /// The node reported them.
    Reported,
    /// The gateway counted chunks.
    Counted,
    /// The gateway derived them from sizes.
    Estimated,
}

impl TokensFrom {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Counted => "counted",
            Self::Estimated => "estimated",
        }
    }
}

/// The record of one request that has ended. `status` and `tokens_from` are the words of [`Status`] and [`TokensFrom`].
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// UUIDv7; what the answer carried as `x-request-id`.
    pub request_id: Uuid,
    /// Whose, by the id that tells users of one name apart.
    pub user: Arc<str>,
    /// The id of the key; `None` where a trusted network stood for the user.
    pub key: Option<Arc<str>>,
    /// Arrival, epoch milliseconds.
    pub created_at_ms: i64,
    /// The UTC day whose limit it counts towards, in days since 1970-01-01.
    pub day: i32,
    /// The model, as the client spelled it.
    pub model: String,
    /// The route's template.
    pub endpoint: Cow<'static, str>,
    /// The node that was asked last; `None` if none was.
    pub node: Option<String>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// How the request ended.
    pub status: Cow<'static, str>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Where the token counts come from.
    pub tokens_from: Cow<'static, str>,
    /// How many nodes were asked.
    pub attempts: u32,
    /// Time in the gateway's queue, over all attempts.
    pub queue_ms: u64,
    /// From arrival to the node's first byte.
    pub time_to_first_token_ms: Option<u64>,
    /// From arrival to the end.
    pub duration_ms: u64,
    /// Time to load the model, if this request caused it.
    pub load_ms: Option<u64>,
    /// The node's time for the prompt.
    pub prefill_ms: Option<u64>,
    /// The node's time for the answer.
    pub decode_ms: Option<u64>,
    /// What went wrong.
    pub reason: Reason,
    /// The status that the client saw; `None` while the request runs, and in rows of older versions.
    pub http_status: Option<u16>,
    /// How many requests the row stands for: 1, except for refusals beyond a user's first few in a minute.
    pub requests: u64,
    /// The group under whose limits it was admitted, by the id that tells groups of one name apart.
    pub group: Option<Arc<str>>,
}

/// What went wrong with a request, for programs. Empty if nothing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reason {
    /// The `code` of the client's error.
    pub code: Option<Cow<'static, str>>,
    /// The limit that refused it, by its name in the configuration.
    pub limit: Option<Cow<'static, str>>,
}

impl Reason {
    /// A reason that is known by the error's `code` only.
    pub fn of_code(code: Option<&str>) -> Self {
        Self { code: code.map(|code| Cow::Owned(code.to_owned())), limit: None }
    }

    /// A reason from the `code` of an error and the name of the limit that refused, if one did.
    pub fn new(code: Option<&'static str>, limit: Option<&'static str>) -> Self {
        Self { code: code.map(Cow::Borrowed), limit: limit.map(Cow::Borrowed) }
    }
}

impl UsageRow {
    /// The user's name.
    pub fn user_name(&self) -> &str {
        name_of(&self.user)
    }

    pub(super) fn into_model(self) -> Model {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Model {
            request_id: self.request_id,
            user_id: self.user.as_ref().to_owned(),
            key_id: self.key.as_deref().map(str::to_owned),
            created_at_ms: self.created_at_ms,
            day: self.day,
            model: self.model,
            endpoint: self.endpoint.into_owned(),
            node: self.node,
            stream: self.stream,
            status: self.status.into_owned(),
            prompt_tokens: signed(self.prompt_tokens),
            completion_tokens: signed(self.completion_tokens),
            tokens_from: self.tokens_from.into_owned(),
            attempts: i32::try_from(self.attempts).unwrap_or(i32::MAX),
            queue_ms: signed(self.queue_ms),
            time_to_first_token_ms: self.time_to_first_token_ms.map(signed),
            duration_ms: signed(self.duration_ms),
            load_ms: self.load_ms.map(signed),
            prefill_ms: self.prefill_ms.map(signed),
            decode_ms: self.decode_ms.map(signed),
            code: self.reason.code.map(Cow::into_owned),
            limit_name: self.reason.limit.map(Cow::into_owned),
            http_status: self.http_status.map(i32::from),
            requests: signed(self.requests),
            group_id: self.group.as_deref().map(str::to_owned),
        }
    }

    pub(super) fn from_model(model: Model) -> Self {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        Self {
            request_id: model.request_id,
            user: model.user_id.into(),
            key: model.key_id.map(Arc::from),
            created_at_ms: model.created_at_ms,
            day: model.day,
            model: model.model,
            endpoint: model.endpoint.into(),
            node: model.node,
            stream: model.stream,
            status: model.status.into(),
            prompt_tokens: unsigned(model.prompt_tokens),
            completion_tokens: unsigned(model.completion_tokens),
            tokens_from: model.tokens_from.into(),
            attempts: u32::try_from(model.attempts).unwrap_or_default(),
            queue_ms: unsigned(model.queue_ms),
            time_to_first_token_ms: model.time_to_first_token_ms.map(unsigned),
            duration_ms: unsigned(model.duration_ms),
            load_ms: model.load_ms.map(unsigned),
            prefill_ms: model.prefill_ms.map(unsigned),
            decode_ms: model.decode_ms.map(unsigned),
            reason: Reason { code: model.code.map(Cow::Owned), limit: model.limit_name.map(Cow::Owned) },
            http_status: model.http_status.and_then(|status| u16::try_from(status).ok()),
            requests: unsigned(model.requests),
            group: model.group_id.map(Arc::from),
        }
    }
}

/// Inserts rows; those that exist already stay as they are.
pub(super) async fn insert_rows(db: &impl ConnectionTrait, rows: &[Model]) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = many::insertion::<Entity>(db.get_database_backend(), rows)?;
    db.execute(insert.on_conflict(OnConflict::new().do_nothing().to_owned())).await?;
    Ok(())
}

/// The ids in a table of the local file, for a subquery.
pub(super) fn ids_of<E: EntityTrait>(rows: sea_orm::Select<E>, id: E::Column) -> sea_orm::sea_query::SelectStatement {
    rows.select_only().column(id).into_query()
}

/// How far the times in a row's id and in `created_at_ms` may differ. The id is made when the request's head arrives, and
/// `created_at_ms` is taken after its body, which may take `server.body_seconds`. The rest allows for clocks being set.
const ID_SLACK_MS: i64 = 2 * 60_000;

/// A lower bound for the ids of rows created at this moment (epoch milliseconds) or later.
pub(super) fn first_id(moment_ms: i64) -> Uuid {
    id_of(moment_ms.saturating_sub(ID_SLACK_MS))
}

/// An upper bound for the ids of rows created before this moment (epoch milliseconds).
pub(super) fn end_of_ids(moment_ms: i64) -> Uuid {
    id_of(moment_ms.saturating_add(ID_SLACK_MS))
}

fn id_of(moment_ms: i64) -> Uuid {
    Uuid::from_u128(u128::from(u64::try_from(moment_ms).unwrap_or_default()) << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_whose_body_took_a_minute_to_arrive_has_an_id_within_the_bounds_of_its_time() {
        let created_at_ms = 1_790_000_000_000_i64;
        let head_at_ms = u64::try_from(created_at_ms).unwrap() - 60_000;
        let id = uuid::Builder::from_unix_timestamp_millis(head_at_ms, &[0; 10]).into_uuid();
        assert!(first_id(created_at_ms) <= id && id < end_of_ids(created_at_ms));
        let latest = uuid::Builder::from_unix_timestamp_millis(head_at_ms + 60_000, &[0xff; 10]).into_uuid();
        assert!(latest < end_of_ids(created_at_ms));
        assert_eq!(first_id(i64::MIN), Uuid::nil());
    }
}
