//! Who used how much, on which models and nodes, and when? Reports are made from daily sums, so one over a year reads no
//! rows, and covers days whose rows are gone.
use std::time::Duration;

use entity::usage_rollup::Column;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, IsolationLevel, QueryResult, Value};
use serde::{Deserialize, Serialize};

use super::database::Store;
use super::deadline::within;
use super::error::StoreError;
use super::report_query::select;
use super::transactions::begin_patiently;

/// Longest wait for a report: years of many users have a million daily sums.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);

/// What a report can group and filter usage by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// The user.
    User,
    /// The id of the key.
    Key,
    /// The model, as the client spelled it.
    Model,
    /// The node that was asked last.
    Node,
    /// The UTC day of arrival.
    Day,
    /// How the requests ended.
    Status,
    /// The group under whose limits they were admitted.
    Group,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::User, Self::Key, Self::Model, Self::Node, Self::Day, Self::Status, Self::Group];

    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Model => "model",
            Self::Node => "node",
            Self::Day => "day",
            Self::Status => "status",
            Self::Group => "group",
        }
    }

    pub(super) fn column(self) -> Column {
        match self {
            Self::User => Column::UserId,
            Self::Key => Column::KeyId,
            Self::Model => Column::Model,
            Self::Node => Column::Node,
            Self::Day => Column::Day,
            Self::Status => Column::Status,
            Self::Group => Column::GroupId,
        }
    }
}

/// A group's value in one dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// A UTC day, in days since 1970-01-01.
    Day(i32),
    /// The value of any other dimension; empty if the requests had none.
    Name(String),
}

impl Label {
    /// Whether it can be a value of this dimension.
    pub fn is_of(&self, dimension: Dimension) -> bool {
        matches!(self, Self::Day(_)) == (dimension == Dimension::Day)
    }

    fn read(row: &QueryResult, index: usize, dimension: Dimension) -> Result<Self, DbErr> {
        Ok(match dimension {
            Dimension::Day => Self::Day(row.try_get_by_index(index)?),
            _ => Self::Name(row.try_get_by_index(index)?),
        })
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::Day(day) => (*day).into(),
            Self::Name(name) => name.as_str().into(),
        }
    }
}

/// What a report should cover, and how it groups.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What to group by, which is also the order of the groups. Empty = one group of everything.
    pub group_by: Vec<Dimension>,
    /// The first day, in days since 1970-01-01; `None` = from the beginning.
    pub from_day: Option<i32>,
    /// The first day that is not included; `None` = no end.
    pub to_day: Option<i32>,
    /// Only usage with these values, at most one for each dimension. An empty name = usage without a value.
    pub only: Vec<(Dimension, String)>,
}

/// Sums of usage. Refused requests are counted apart and add to nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Requests, refused ones not counted.
    pub requests: i64,
    /// Refused requests.
    pub refused: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Waiting for slots, milliseconds.
    pub queue_ms: i64,
    /// From arrival to end, milliseconds.
    pub duration_ms: i64,
    /// Loading models, milliseconds.
    pub load_ms: i64,
    /// Nodes' time for prompts, milliseconds.
    pub prefill_ms: i64,
    /// Nodes' time for answers, milliseconds.
    pub decode_ms: i64,
}

pub(super) const SUMS: [&str; 9] = [
    "requests",
    "refused",
    "prompt_tokens",
    "completion_tokens",
    "queue_ms",
    "duration_ms",
    "load_ms",
    "prefill_ms",
    "decode_ms",
];

impl Sums {
    /// Reads [`SUMS`] from the columns that begin at index `first`.
    fn read(row: &QueryResult, first: usize) -> Result<Self, DbErr> {
        let sum = |index: usize| row.try_get_by_index::<i64>(first + index);
        Ok(Self {
            requests: sum(0)?,
            refused: sum(1)?,
            prompt_tokens: sum(2)?,
            completion_tokens: sum(3)?,
            queue_ms: sum(4)?,
            duration_ms: sum(5)?,
            load_ms: sum(6)?,
            prefill_ms: sum(7)?,
            decode_ms: sum(8)?,
        })
    }
}

/// The sums of usage with the same values in the dimensions of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// One for each dimension of the report, in its order.
    pub labels: Vec<Label>,
    /// The sums of the group.
    pub sums: Sums,
}

impl Store {
    /// At most `limit` groups that follow the group with the labels `after`, in order, and whether there are more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn report_page(
        &self,
        report: &Report,
        after: Option<&[Label]>,
        limit: u64,
    ) -> Result<(Vec<Group>, bool), StoreError> {
        let read = async {
            let moment = self.one_moment().await?;
            let read = page(&moment, report, after, limit).await?;
            moment.commit().await?;
            Ok(read)
        };
        within(REPORT_DEADLINE, read).await
    }

    /// Like [`Store::report_page`], together with the sums of the whole report as of the same moment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn report_page_and_total(
        &self,
        report: &Report,
        after: Option<&[Label]>,
        limit: u64,
    ) -> Result<(Vec<Group>, bool, Sums), StoreError> {
        let read = async {
            let moment = self.one_moment().await?;
            let (groups, more) = page(&moment, report, after, limit).await?;
            let whole = Report { group_by: Vec::new(), ..report.clone() };
            let (total, _) = page(&moment, &whole, None, 1).await?;
            moment.commit().await?;
            Ok((groups, more, total.first().map(|total| total.sums).unwrap_or_default()))
        };
        within(REPORT_DEADLINE, read).await
    }

    /// A transaction whose statements all see the same data, as SQLite's always do.
    async fn one_moment(&self) -> Result<DatabaseTransaction, DbErr> {
        let on_postgres = self.reads.get_database_backend() == DatabaseBackend::Postgres;
        let isolation_level = on_postgres.then_some(IsolationLevel::RepeatableRead);
        begin_patiently(&self.reads, REPORT_DEADLINE, isolation_level).await
    }
}

async fn page(
    db: &impl ConnectionTrait,
    report: &Report,
    after: Option<&[Label]>,
    limit: u64,
) -> Result<(Vec<Group>, bool), DbErr> {
    let rows = db.query_all(&select(report, after, limit.saturating_add(1))).await?;
    let more = rows.len() as u64 > limit;
    let group = |row: &QueryResult| {
        let labels = report.group_by.iter().enumerate();
        let labels = labels.map(|(index, dimension)| Label::read(row, index, *dimension)).collect::<Result<_, _>>()?;
        Ok(Group { labels, sums: Sums::read(row, report.group_by.len())? })
    };
    let page = rows.iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((page.map(group).collect::<Result<_, DbErr>>()?, more))
}
