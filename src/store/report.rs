//! Who used how much, on which models and nodes, and when? Reports are made from daily sums, so one over a year reads no
//! rows, and covers days whose rows are gone.
#[cfg(test)]
mod properties;

use std::time::Duration;

use sea_orm::sea_query::SelectStatement;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, IsolationLevel, QueryResult};

use super::database::Store;
use super::deadline::within;
use super::error::StoreError;
use super::report_query::{Dimension, Label, Report};
use super::report_statements::{FEW, MANY, Names, Source, Span, count, heads, select, select_span};
use super::transactions::begin_patiently;

/// Longest wait for a report: one of years of many users reads many sums.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);
/// Keeps Postgres from reading all sums where the statements name those that they want: it takes five columns that depend on
/// each other for independent, and so a few thousand sums for nearly all. Compiling such statements takes longer than they.
pub(super) const BY_INDEX: &str =
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";

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
        let moment = begin_patiently(&self.reads, REPORT_DEADLINE, isolation_level).await?;
        if on_postgres {
            moment.execute_unprepared(BY_INDEX).await?;
        }
        Ok(moment)
    }
}

/// A part of a report; see `report_statements`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    /// What all groups of the part begin with.
    labels: Vec<Label>,
    /// Requests of the part, refused ones counted; it has no more sums than these.
    requests: u64,
    /// Totals of the part.
    totals: u64,
}

/// How much is read in one go.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Most sums of parts that are read whole.
    few: u64,
    /// Most entries of an index that are read for the names of a page.
    many: u64,
}

async fn page(
    db: &impl ConnectionTrait,
    report: &Report,
    after: Option<&[Label]>,
    limit: u64,
) -> Result<(Vec<Group>, bool), DbErr> {
    let wanted = limit.saturating_add(1);
    let mut groups = if report.is_of_all_users() {
        read(db, report, &select(report, Source::Totals, after, wanted)).await?
    } else if report.is_of_one() {
        read(db, report, &select(report, Source::Sums, after, wanted)).await?
    } else {
        page_of_parts(db, report, after, wanted, Bounds { few: FEW, many: MANY }).await?
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = groups.len() > limit;
    groups.truncate(limit);
    Ok((groups, more))
}

/// The first `wanted` groups after `after`, one part of the report after the other.
async fn page_of_parts(
    db: &impl ConnectionTrait,
    report: &Report,
    after: Option<&[Label]>,
    wanted: u64,
    Bounds { few, many }: Bounds,
) -> Result<Vec<Group>, DbErr> {
    let from = after.map(|after| &after[..report.shared().len().min(after.len())]);
    // Each has a group of its own, but the first may have none after `after`.
    let heads = read_heads(db, report, from, wanted.saturating_add(1)).await?;
    let mut groups: Vec<Group> = Vec::new();
    for run in runs(&heads, few) {
        let missing = wanted.saturating_sub(groups.len() as u64);
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        if missing == 0 {
            break;
        }
        let after = after.filter(|_| Some(first.labels.as_slice()) == from);
        let span = Span(&first.labels, &last.labels);
        let requests = run.iter().fold(0_u64, |sum, head| sum.saturating_add(head.requests));
        let is_few = requests <= few || has_few(db, report, span, few).await?;
        let statement = if is_few {
            select_span(report, span, after, missing)
        } else {
            // A large part is alone in its run.
            let names = names_of(db, report, first, missing, many).await?;
            select(&report.part(&first.labels), Source::SumsOfNames(names), after, missing)
        };
        groups.extend(read(db, report, &statement).await?);
    }
    Ok(groups)
}

/// How the names of a page of `limit` groups of a part are found.
async fn names_of(
    db: &impl ConnectionTrait,
    report: &Report,
    part: &Head,
    limit: u64,
    many: u64,
) -> Result<Names, DbErr> {
    let is_by_user = report.group_by.get(report.shared().len()) == Some(&Dimension::User);
    let has_bound = (is_by_user && part.totals.saturating_mul(limit.saturating_add(1)) <= many)
        // To be counted, entries are read once more.
        || has_few(db, report, Span(&part.labels, &part.labels), many / 2).await?;
    Ok(if has_bound { Names::OfTotals(db.get_database_backend()) } else { Names::OfAll })
}

/// The parts that are read together, in their order: one that may have more than `few` sums alone, others as long as they
/// have no more than that in all.
fn runs(heads: &[Head], few: u64) -> impl Iterator<Item = &[Head]> {
    let mut rest = heads;
    std::iter::from_fn(move || {
        let mut requests = 0_u64;
        let fit = rest.iter().take_while(|head| {
            requests = requests.saturating_add(head.requests);
            requests <= few
        });
        let (run, following) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = following;
        Some(run).filter(|run| !run.is_empty())
    })
}

async fn read(db: &impl ConnectionTrait, report: &Report, statement: &SelectStatement) -> Result<Vec<Group>, DbErr> {
    let group = |row: &QueryResult| {
        let labels = report.group_by.iter().enumerate();
        let labels = labels.map(|(index, dimension)| Label::read(row, index, *dimension)).collect::<Result<_, _>>()?;
        Ok(Group { labels, sums: Sums::read(row, report.group_by.len())? })
    };
    db.query_all(statement).await?.iter().map(group).collect()
}

async fn read_heads(
    db: &impl ConnectionTrait,
    report: &Report,
    from: Option<&[Label]>,
    limit: u64,
) -> Result<Vec<Head>, DbErr> {
    let shared = report.shared();
    let head = |row: &QueryResult| {
        let labels = shared.iter().enumerate();
        let labels = labels.map(|(index, dimension)| Label::read(row, index, *dimension)).collect::<Result<_, _>>()?;
        let count = |place: usize| row.try_get_by_index::<i64>(shared.len() + place);
        let [requests, totals] = [count(0)?, count(1)?].map(|count| u64::try_from(count).unwrap_or_default());
        Ok(Head { labels, requests, totals })
    };
    db.query_all(&heads(report, from, limit)).await?.iter().map(head).collect()
}

async fn has_few(db: &impl ConnectionTrait, report: &Report, span: Span<'_>, few: u64) -> Result<bool, DbErr> {
    let sums = db
        .query_one(&count(report, span, few.saturating_add(1)))
        .await?
        .map_or(Ok(0), |row| row.try_get_by_index::<i64>(0))?;
    Ok(u64::try_from(sums).unwrap_or_default() <= few)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::scratch::Scratch;

    #[actix_rt::test]
    async fn names_are_found_below_the_totals_unless_that_reads_too_much() {
        let report = |name| Report { group_by: vec![Dimension::Model, name], ..Report::default() };
        let part = |totals| Head { labels: vec![Label::Name("m".to_owned())], requests: u64::MAX, totals };
        for scratch in Scratch::each().await {
            // The sums of a month of one node. Long pages, or keys, are below the totals only while the part has few sums.
            let fill = "INSERT INTO usage_rollups (day, user_id, key_id, model, node, status, group_id, requests, prompt_tokens, \
                completion_tokens, queue_ms, duration_ms, load_ms, prefill_ms, decode_ms) \
                WITH RECURSIVE days (day) AS (SELECT 1 UNION ALL SELECT day + 1 FROM days WHERE day < 30) \
                SELECT day, 'ann', '', 'm', 'a', 'completed', '', 1, 0, 0, 0, 0, 0, 0, 0 FROM days";
            let totals = "INSERT INTO usage_totals (day, model, node, status, group_id, requests, prompt_tokens, \
                completion_tokens, queue_ms, duration_ms, load_ms, prefill_ms, decode_ms) \
                SELECT day, model, node, status, group_id, 1, 0, 0, 0, 0, 0, 0, 0 FROM usage_rollups";
            for statement in [fill, totals] {
                scratch.db.execute_unprepared(statement).await.unwrap();
            }
            for (name, limit, many, is_below) in [
                (Dimension::User, 2, 90, true),
                (Dimension::User, 2, 59, false),
                (Dimension::User, 100, 60, true),
                (Dimension::User, 100, 59, false),
                (Dimension::Key, 100, 60, true),
                (Dimension::Key, 2, 59, false),
            ] {
                let names = names_of(&scratch.db, &report(name), &part(30), limit, many).await.unwrap();
                let below = Names::OfTotals(scratch.db.get_database_backend());
                assert_eq!(names == below, is_below, "{name:?} {limit} {many}");
            }
            scratch.remove().await;
        }
    }

    #[test]
    fn small_parts_are_read_together_and_large_ones_alone() {
        for (requests, expected) in [
            (&[][..], &[][..]),
            (&[FEW], &[1]),
            (&[FEW + 1], &[1]),
            (&[u64::MAX, 1, FEW - 1, 1, u64::MAX], &[1, 2, 1, 1]),
            (&[0, 0, 0, FEW, FEW, 1], &[4, 1, 1]),
        ] {
            let head = |(number, requests): (i32, &u64)| {
                let labels = vec![Label::Day(number)];
                Head { labels, requests: *requests, totals: 1 }
            };
            let heads: Vec<Head> = (0..).zip(requests).map(head).collect();
            let runs: Vec<&[Head]> = runs(&heads, FEW).collect();
            assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), expected, "{requests:?}");
            assert_eq!(runs.concat(), heads);
        }
    }
}
