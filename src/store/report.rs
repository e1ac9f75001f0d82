//! Who used how much, on which models and nodes, and when? Reports are made from daily sums, so one over a year reads no
//! rows, and covers days whose rows are gone.
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, IsolationLevel, QueryResult};

use super::database::Store;
use super::deadline::within;
use super::error::StoreError;
use super::report_query::{Label, Report, select};
use super::transactions::begin_patiently;

/// Longest wait for a report: years of many users have a million daily sums.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);

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

impl Sums {
    /// Reads the sums of [`select`] from the columns that begin at index `first`.
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
