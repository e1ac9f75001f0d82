//! Which statements read a page of a report?
//!
//! | the report | reads |
//! |---|---|
//! | tells no users or keys apart | `usage_totals`: a few sums a day |
//! | is of one user or key | that one's sums, by an index |
//! | tells users or keys apart | one part after the other until the page is full |
//!
//! A part has one value of everything by which groups are told apart before users or keys: each model of a report by model
//! and user. `usage_totals` says which parts there are, in their order, and how many requests each has ([`heads`]). A part
//! with at most [`FEW`] sums is read whole: each total of it leads to the users' sums in it, by an index that begins with
//! the same columns. Of any other part the database reads the sums of as many users or keys as the page can show: a name
//! with usage in the part has at least one group of its own, so a page of `n` groups ends within the first `n` names. These
//! are found in one of two ways ([`Names`]):
//!
//! - [`Names::OfTotals`]: from each total of the part its first `n` names, and of all these the first `n`. Below a total, the
//!   same index has the users in order. Keys it has not, so all sums of the part are read there.
//! - [`Names::OfAll`]: hopping from name to name, and asking of each whether it has usage in the part. A name that has none
//!   costs its sums in the period.
//!
//! The first is taken as long as it reads at most [`MANY`] entries of the index: for short pages of users, which is most of
//! them, and for any page of a part with half as many sums, which have to be counted before. A part beyond that has many users or keys, and hops find those soon,
//! unless there are very many others before them.
//!
//! So a page costs what it shows, and at most this besides: the totals of the period and [`MANY`] entries of an index, or the
//! names that the hops pass over.
use entity::usage_rollup::{Column, Entity};
use entity::usage_total;
use sea_orm::DatabaseBackend;
use sea_orm::sea_query::{
    CommonTableExpression, Cond, Expr, ExprTrait, Func, JoinType, Order, Query, SelectStatement, UnionType, WithClause,
};

use super::report_query::{Dimension, Label, Report};

/// Most sums that are read for a part of a report, whatever the page shows.
pub(super) const FEW: u64 = 20_000;

/// Most entries of an index that are read to find the names of a page.
pub(super) const MANY: u64 = 100_000;

/// The columns after the labels.
const SUMS: [&str; 9] = [
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

/// The totals of a part of a report.
const TOTALS: &str = "totals_of_part";
/// What usage is told apart by in `usage_totals`, and the names of these columns in [`TOTALS`].
const KINDS: [(Column, &str); 5] = [
    (Column::Day, "total_day"),
    (Column::Model, "total_model"),
    (Column::Node, "total_node"),
    (Column::Status, "total_status"),
    (Column::GroupId, "total_group"),
];
/// All users or keys in order, of which the database finds one after the other.
const NAMES: &str = "names";
/// Those of the page.
const PAGE: &str = "of_page";
/// The only column of both.
const NAME: &str = "name";
/// The first names of one total.
const OF_TOTAL: &str = "of_total";

/// Where the sums of a statement come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The sums over all users.
    Totals,
    /// All users' sums.
    Sums,
    /// The sums of the users or keys of the page. The report must be of one part.
    SumsOfNames(Names),
}

/// How the users or keys of a page are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Among all users or keys, one after the other.
    OfAll,
    /// Below each total of the part, in the words of this database.
    OfTotals(DatabaseBackend),
}

/// Parts of a report that follow each other: the labels of the first and of the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a>(pub(super) &'a [Label], pub(super) &'a [Label]);

/// The statement for the first `limit` groups after the group with the labels `after`.
pub(super) fn select(report: &Report, source: Source, after: Option<&[Label]>, limit: u64) -> SelectStatement {
    let mut select = Query::select();
    let names = report.group_by.iter().position(|dimension| dimension.is_name());
    match (source, names) {
        (Source::Totals, _) => _ = select.from(usage_total::Entity),
        (Source::SumsOfNames(names), Some(place)) => {
            let column = report.group_by[place].column();
            let first = after.and_then(|after| after.get(place));
            select.with_cte(match names {
                Names::OfAll => names_of_all(report, column, first, limit),
                Names::OfTotals(backend) => names_of_totals(report, column, first, limit, backend),
            });
            // SQLite takes the tables of a CROSS JOIN in the order in which they are written.
            select.from(PAGE).join(JoinType::CrossJoin, Entity, Cond::all());
            select.and_where(Expr::col(column).equals((PAGE, NAME)));
        }
        (Source::Sums | Source::SumsOfNames(_), _) => _ = select.from(Entity),
    }
    select.cond_where(filter_of(report));
    groups(&mut select, report, after, limit);
    select
}

/// The same for some parts of the report: the users' sums in the totals of these parts, each total leading to its sums.
pub(super) fn select_span(report: &Report, span: Span<'_>, after: Option<&[Label]>, limit: u64) -> SelectStatement {
    let mut select = Query::select();
    from_totals(&mut select, report, span);
    groups(&mut select, report, after, limit);
    select
}

/// The labels and sums of the first `limit` groups after the group with the labels `after`.
fn groups(select: &mut SelectStatement, report: &Report, after: Option<&[Label]>, limit: u64) {
    select.limit(limit);
    for column in report.group_by.iter().map(|dimension| dimension.column()) {
        select.column(column).group_by_col(column).order_by(column, Order::Asc);
    }
    for sum in SUMS {
        select.expr(Expr::cust(sum_of(sum)));
    }
    select.and_where_option(after.map(|after| tuple_of(&report.group_by).gt(values_of(after))));
}

/// The parts of a report in their order, as the labels of each, how many requests it has, refused ones counted, and how many
/// totals; from the part with the labels `from` on, and `limit` at most.
pub(super) fn heads(report: &Report, from: Option<&[Label]>, limit: u64) -> SelectStatement {
    let shared = report.shared();
    let mut heads = Query::select();
    heads.from(usage_total::Entity).limit(limit);
    for column in shared.iter().map(|dimension| dimension.column()) {
        heads.column(column).group_by_col(column).order_by(column, Order::Asc);
    }
    heads.expr(Expr::cust("CAST(coalesce(sum(requests), 0) AS bigint)")).expr(Expr::cust("CAST(count(*) AS bigint)"));
    let from = from.filter(|_| !shared.is_empty()).map(|from| tuple_of(shared).gte(values_of(from)));
    heads.cond_where(filter_of(report)).and_where_option(from).to_owned()
}

/// How many sums users and keys have in some parts of a report, counted up to `most`.
pub(super) fn count(report: &Report, span: Span<'_>, most: u64) -> SelectStatement {
    let mut sums = Query::select();
    from_totals(&mut sums, report, span);
    sums.expr_as(Expr::val(1), NAME).limit(most);
    Query::select().expr(Expr::cust("CAST(count(*) AS bigint)")).from_subquery(sums, "sums").to_owned()
}

fn from_totals(select: &mut SelectStatement, report: &Report, Span(first, last): Span<'_>) {
    let mut totals = Query::select();
    let shared = report.shared();
    if first == last {
        // An index may serve equality of any of these columns, and a range of their tuple only where it begins with them.
        totals.cond_where(filter_of(&report.part(first)));
    } else {
        totals.cond_where(filter_of(report));
        totals.and_where(tuple_of(shared).gte(values_of(first))).and_where(tuple_of(shared).lte(values_of(last)));
    }
    select.with_cte(Query::with().cte(table_of_totals(totals)).to_owned());
    // In the order in which they are written, as above.
    select.from(TOTALS).join(JoinType::CrossJoin, Entity, Cond::all());
    of_total(select);
}

fn table_of_totals(mut totals: SelectStatement) -> CommonTableExpression {
    totals.from(usage_total::Entity);
    for (column, name) in KINDS {
        totals.expr_as(Expr::col(column), name);
    }
    // Materialized, or SQLite would look for a range of days rather than for each one.
    CommonTableExpression::new().table_name(TOTALS).query(totals).materialized(true).to_owned()
}

/// Only the users' sums in a total.
fn of_total(select: &mut SelectStatement) {
    for (column, name) in KINDS {
        select.and_where(Expr::col(column).equals((TOTALS, name)));
    }
}

/// The same names as [`names_of_all`], found below the totals of the part.
fn names_of_totals(
    part: &Report,
    column: Column,
    first: Option<&Label>,
    limit: u64,
    backend: DatabaseBackend,
) -> WithClause {
    let wanted = limit.saturating_add(1);
    let mut of_one = Query::select();
    of_one.distinct().expr_as(Expr::col(column), NAME).from(Entity).order_by(column, Order::Asc).limit(wanted);
    of_one.and_where_option(first.map(|label| Expr::col(column).gte(label.value())));
    of_total(&mut of_one);
    // What a total leads to can be a table of its own only as the value of a function: SQLite has no LATERAL.
    let (array, elements) = match backend {
        DatabaseBackend::Sqlite => ("json_group_array", "json_each"),
        _ => ("json_agg", "json_array_elements_text"),
    };
    let array = Func::cust(array).arg(Expr::col(NAME));
    let array = Query::select().expr(array).from_subquery(of_one, NAMES).to_owned();
    let page = Query::select()
        .distinct()
        .expr_as(Expr::col((OF_TOTAL, "value")), NAME)
        .from(TOTALS)
        .from_function(Func::cust(elements).arg(Expr::from(array)), OF_TOTAL)
        .order_by(NAME, Order::Asc)
        .limit(wanted)
        .to_owned();
    let totals = table_of_totals(Query::select().cond_where(filter_of(part)).to_owned());
    let page = CommonTableExpression::new().table_name(PAGE).column(NAME).query(page).to_owned();
    Query::with().cte(totals).cte(page).to_owned()
}

/// The first `limit` users or keys with usage in the part, from `first` on, whose other groups may follow: that one may have
/// none left, which is why one more is taken.
fn names_of_all(part: &Report, column: Column, first: Option<&Label>, limit: u64) -> WithClause {
    let least = |from: Option<Expr>| {
        let mut least = Query::select();
        least.from(Entity).expr_as(Expr::col(column).min(), NAME).and_where_option(from);
        least
    };
    let first = first.map(|label| Expr::col(column).gte(label.value()));
    let here = || Expr::col((NAMES, NAME));
    let next = least(Some(Expr::col(column).gt(here())));
    let following = Query::select().expr(Expr::from(next)).from(NAMES).and_where(here().is_not_null()).to_owned();
    let all = least(first).union(UnionType::All, following).to_owned();

    let use_of_it = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Expr::col(column).equals((NAMES, NAME)))
        .cond_where(filter_of(part))
        // Neither database makes a join of a query with an OFFSET, and a join might take the names in another order.
        .limit(1)
        .offset(0)
        .to_owned();
    // In order without saying so, since each name is made from the one before; sorting would need all of them.
    let page = Query::select()
        .column((NAMES, NAME))
        .from(NAMES)
        .and_where(here().is_not_null())
        .and_where(Expr::exists(use_of_it))
        .limit(limit.saturating_add(1))
        .to_owned();
    let table = |name, query| CommonTableExpression::new().table_name(name).column(NAME).query(query).to_owned();
    Query::with().recursive(true).cte(table(NAMES, all)).cte(table(PAGE, page)).to_owned()
}

fn filter_of(report: &Report) -> Cond {
    let mut filter = Cond::all()
        .add_option(report.from_day.map(|from| Expr::col(Column::Day).gte(from)))
        .add_option(report.to_day.map(|to| Expr::col(Column::Day).lt(to)));
    for (dimension, name) in &report.only {
        filter = filter.add(Expr::col(dimension.column()).eq(name.as_str()));
    }
    filter
}

fn tuple_of(dimensions: &[Dimension]) -> Expr {
    Expr::tuple(dimensions.iter().map(|dimension| Expr::col(dimension.column())))
}

fn values_of(labels: &[Label]) -> Expr {
    Expr::tuple(labels.iter().map(|label| Expr::val(label.value())))
}

/// The SQL of a sum. Postgres sums bigints to NUMERIC, and no rows at all to null; the cast and the zero mend both.
fn sum_of(sum: &str) -> String {
    let (refused, column) = match sum {
        "refused" => ("=", "requests"),
        column => ("<>", column),
    };
    format!("CAST(coalesce(sum(CASE WHEN status {refused} 'refused' THEN {column} ELSE 0 END), 0) AS bigint)")
}
