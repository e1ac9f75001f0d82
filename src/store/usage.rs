//! What did whom cost what? Rows of usage, read by page and summed by model.
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use entity::usage::{Column, Entity, Model};
use entity::{outbox, usage_rollup};
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, FromQueryResult, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select, SelectModel, Selector,
};
use uuid::Uuid;

use super::outbox::ids_of;
use super::{Store, StoreError, within_deadline};
use limits::{Moment, PriorUse};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

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
    /// Not admitted: a limit or a full queue.
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

/// Where token numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensFrom {
    /// The node said so.
    Reported,
    /// The gateway counted chunks.
    Counted,
    /// Derived from sizes.
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

/// One request, ended. `status` and `tokens_from` are the words of [`Status`] and [`TokensFrom`].
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// UUIDv7; what the answer carried as `x-request-id`.
    pub request_id: Uuid,
    /// Whose.
    pub user: Arc<str>,
    /// With which key; `None` where a network stood for the user.
    pub key: Option<Arc<str>>,
    /// Arrival, epoch milliseconds.
    pub created_at_ms: i64,
    /// The UTC day whose limit it counts towards, days since 1970-01-01.
    pub day: i32,
    /// As the client spelled it.
    pub model: String,
    /// The route's template.
    pub endpoint: Cow<'static, str>,
    /// The last node that was asked.
    pub node: Option<String>,
    /// Whether it streamed.
    pub stream: bool,
    /// How it ended.
    pub status: Cow<'static, str>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Where these numbers come from.
    pub tokens_from: Cow<'static, str>,
    /// Nodes asked.
    pub attempts: u32,
    /// Waiting in the gateway's queue, over all attempts.
    pub queue_ms: u64,
    /// From arrival to the node's first byte.
    pub time_to_first_token_ms: Option<u64>,
    /// From arrival to the end.
    pub duration_ms: u64,
    /// Loading the model, where this request caused it.
    pub load_ms: Option<u64>,
    /// The node's work on the prompt.
    pub prefill_ms: Option<u64>,
    /// The node's work on the answer.
    pub decode_ms: Option<u64>,
}

impl UsageRow {
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
        }
    }

    fn from_model(model: Model) -> Self {
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
        }
    }
}

/// Which rows of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// At most so many.
    pub limit: u64,
    /// Only rows older than this request.
    pub after: Option<Uuid>,
}

/// A span of arrival times, epoch milliseconds: from (included) to (excluded).
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// `None` = from the beginning.
    pub from_ms: Option<i64>,
    /// `None` = up to now.
    pub to_ms: Option<i64>,
}

impl Period {
    /// The same in days since 1970-01-01 UTC, where it begins and ends with a day, if it does at all.
    fn days(self) -> Option<(Option<i32>, Option<i32>)> {
        let day = |moment_ms: Option<i64>| match moment_ms {
            None => Some(None),
            Some(moment_ms) if moment_ms.rem_euclid(DAY_MS) != 0 => None,
            Some(moment_ms) => i32::try_from(moment_ms / DAY_MS).ok().map(Some),
        };
        Some((day(self.from_ms)?, day(self.to_ms)?))
    }
}

/// Sums over one model.
#[derive(Clone, Debug, PartialEq, Eq, FromQueryResult)]
pub struct ModelTotals {
    /// The model, as clients spelled it.
    pub model: String,
    /// Rows, refused ones not counted.
    pub requests: i64,
    /// Sum of prompt tokens.
    pub prompt_tokens: i64,
    /// Sum of completion tokens.
    pub completion_tokens: i64,
}

/// What everybody has used that still counts.
#[derive(Debug, Default)]
pub(super) struct SpentByAll {
    pub(super) users: HashMap<String, PriorUse>,
    pub(super) keys: HashMap<String, PriorUse>,
}

impl SpentByAll {
    fn add(&mut self, user: String, key: Option<String>, take: impl Fn(&mut PriorUse)) {
        take(self.users.entry(user).or_default());
        if let Some(key) = key {
            take(self.keys.entry(key).or_default());
        }
    }
}

impl Store {
    /// A user's rows, newest first, and whether older ones follow.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_page(&self, user: &str, page: Page) -> Result<(Vec<UsageRow>, bool), StoreError> {
        let mut query = Entity::find().filter(Column::UserId.eq(user));
        if let Some(after) = page.after {
            query = query.filter(Column::RequestId.lt(after));
        }
        let query = query.order_by_desc(Column::RequestId).limit(page.limit + 1);
        let mut models = within_deadline(query.all(&self.db)).await?;
        let more = models.len() as u64 > page.limit;
        models.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok((models.into_iter().map(UsageRow::from_model).collect(), more))
    }

    /// A user's sums by model, largest first. Those of whole days are the sums that outlive rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_totals(&self, user: &str, period: Period) -> Result<Vec<ModelTotals>, StoreError> {
        let mut totals = match period.days() {
            Some((from, to)) => within_deadline(totals_of_days(user, from, to).all(&self.db)).await?,
            None => within_deadline(totals_of_rows(user, period).all(&self.db)).await?,
        };
        totals.sort_by(|a, b| {
            let size = |totals: &ModelTotals| totals.prompt_tokens + totals.completion_tokens;
            size(b).cmp(&size(a)).then_with(|| a.model.cmp(&b.model))
        });
        Ok(totals)
    }

    /// Whether a user has ever used anything, also one who is deleted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_usage(&self, user: &str) -> Result<bool, StoreError> {
        let any = usage_rollup::Entity::find().filter(usage_rollup::Column::UserId.eq(user));
        Ok(within_deadline(any.one(&self.db)).await?.is_some())
    }
}

fn totals_of_rows(user: &str, period: Period) -> Selector<SelectModel<ModelTotals>> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .apply_if(period.from_ms, |rows, from| rows.filter(Column::CreatedAtMs.gte(from)))
        .apply_if(period.to_ms, |rows, to| rows.filter(Column::CreatedAtMs.lt(to)));
    rows.select_only()
        .column(Column::Model)
        .column_as(Column::RequestId.count(), "requests")
        // A sum of bigints is NUMERIC on Postgres.
        .column_as(Column::PromptTokens.sum().cast_as("bigint"), "prompt_tokens")
        .column_as(Column::CompletionTokens.sum().cast_as("bigint"), "completion_tokens")
        .group_by(Column::Model)
        .into_model()
}

fn totals_of_days(user: &str, from: Option<i32>, to: Option<i32>) -> Selector<SelectModel<ModelTotals>> {
    use usage_rollup::Column;
    let sums = usage_rollup::Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .apply_if(from, |sums, from| sums.filter(Column::Day.gte(from)))
        .apply_if(to, |sums, to| sums.filter(Column::Day.lt(to)));
    sums.select_only()
        .column(Column::Model)
        .column_as(Column::Requests.sum().cast_as("bigint"), "requests")
        .column_as(Column::PromptTokens.sum().cast_as("bigint"), "prompt_tokens")
        .column_as(Column::CompletionTokens.sum().cast_as("bigint"), "completion_tokens")
        .group_by(Column::Model)
        .into_model()
}

/// Puts rows where they belong, but for those that are there already.
pub(super) async fn insert_rows(db: &impl ConnectionTrait, rows: &[Model]) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = rows.iter().cloned().map(IntoActiveModel::into_active_model);
    Entity::insert_many(rows).on_conflict_do_nothing().exec_without_returning(db).await?;
    Ok(())
}

/// What counts of everybody's (or one user's) rows towards the limits at `now`: those in the database, and those on
/// their way there. While it is away, those of this gateway.
pub(super) async fn spent(store: &Store, user: Option<&str>, now: Moment) -> Result<SpentByAll, StoreError> {
    let mine = match user {
        Some(user) => Entity::find().filter(Column::UserId.eq(user)),
        None => Entity::find(),
    };
    let mut spent = SpentByAll::default();
    if store.is_online() {
        add_spent(&mut spent, &store.db, &mine, now).await?;
    }
    if store.local.is_outbox {
        let is_waiting = Column::RequestId.in_subquery(ids_of(outbox::Entity::find(), outbox::Column::RequestId));
        let waiting = mine.clone().filter(is_waiting);
        for (user, key, tokens) in within_deadline(tokens_of_day(&store.local.db, waiting.clone(), now.day())).await? {
            spent.add(user, key, |spent| spent.unsent_today += u64::try_from(tokens).unwrap_or_default());
        }
        let here = if store.is_online() { waiting } else { mine };
        add_spent(&mut spent, &store.local.db, &here, now).await?;
    }
    Ok(spent)
}

async fn add_spent(
    spent: &mut SpentByAll,
    db: &DatabaseConnection,
    rows: &Select<Entity>,
    now: Moment,
) -> Result<(), StoreError> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
    for (user, key, tokens) in within_deadline(tokens_of_day(db, rows.clone(), now.day())).await? {
        spent.add(user, key, |spent| spent.tokens_today += unsigned(tokens));
    }
    for (user, key, created_at_ms, prompt, completion) in
        within_deadline(admissions_since(db, rows.clone(), now)).await?
    {
        let age = Duration::from_millis(unsigned(now.unix_ms - created_at_ms));
        spent.add(user, key, |spent| spent.recent.push((age, unsigned(prompt.saturating_add(completion)))));
    }
    Ok(())
}

async fn tokens_of_day(
    db: &DatabaseConnection,
    rows: Select<Entity>,
    day: i32,
) -> Result<Vec<(String, Option<String>, i64)>, DbErr> {
    rows.filter(Column::Day.eq(day))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        .column_as(Column::PromptTokens.sum().add(Column::CompletionTokens.sum()).cast_as("bigint"), "tokens")
        .group_by(Column::UserId)
        .group_by(Column::KeyId)
        .into_tuple()
        .all(db)
        .await
}

async fn admissions_since(
    db: &DatabaseConnection,
    rows: Select<Entity>,
    now: Moment,
) -> Result<Vec<(String, Option<String>, i64, i64, i64)>, DbErr> {
    rows.filter(Column::Day.gte(now.day() - 1))
        .filter(Column::CreatedAtMs.gt(now.unix_ms - 60_000))
        .filter(Column::Status.ne(Status::Refused.as_str()))
        .select_only()
        .column(Column::UserId)
        .column(Column::KeyId)
        .column(Column::CreatedAtMs)
        .column(Column::PromptTokens)
        .column(Column::CompletionTokens)
        .into_tuple()
        .all(db)
        .await
}
