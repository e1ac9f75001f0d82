//! What can be asked of a report, and which sums does the database have to read for a page of it?
//!
//! | the report | reads |
//! |---|---|
//! | tells no users or keys apart | `usage_totals`: a few sums a day |
//! | is of one user or key | that one's sums, by an index |
//! | begins with users or keys | the sums of as many of them as the page can show: the database hops from name to name |
//! | anything else | all sums of its days |
//!
//! A name with usage in the report has at least one group of its own, so a page of `n` groups ends within the first `n`
//! names. The hops pass over names without usage in these days at the price of two look-ups each, whatever they have used
//! in other years.
use entity::usage_rollup::{Column, Entity};
use entity::usage_total;
use sea_orm::sea_query::{
    CommonTableExpression, Cond, Expr, ExprTrait, JoinType, Order, Query, SelectStatement, UnionType, WithClause,
};
use sea_orm::{DbErr, QueryResult, Value};
use serde::{Deserialize, Serialize};

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

    fn column(self) -> Column {
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

    pub(super) fn read(row: &QueryResult, index: usize, dimension: Dimension) -> Result<Self, DbErr> {
        Ok(match dimension {
            Dimension::Day => Self::Day(row.try_get_by_index(index)?),
            _ => Self::Name(row.try_get_by_index(index)?),
        })
    }

    fn value(&self) -> Value {
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

/// All users or keys in order, of which the database finds one after the other.
const NAMES: &str = "names";
/// Those of the page.
const PAGE: &str = "of_page";
/// The only column of both.
const NAME: &str = "name";

impl Report {
    /// Whether it tells no users apart, so that the sums of all users are enough.
    fn is_of_all_users(&self) -> bool {
        let mut dimensions = self.group_by.iter().chain(self.only.iter().map(|(dimension, _)| dimension));
        !dimensions.any(|dimension| matches!(dimension, Dimension::User | Dimension::Key))
    }

    /// The column by whose names the database can hop to the page.
    fn names(&self) -> Option<Column> {
        let is_of_one = self.only.iter().any(|(dimension, _)| matches!(dimension, Dimension::User | Dimension::Key));
        match self.group_by.first() {
            Some(first @ (Dimension::User | Dimension::Key)) if !is_of_one => Some(first.column()),
            _ => None,
        }
    }

    fn filter(&self) -> Cond {
        let mut filter = Cond::all()
            .add_option(self.from_day.map(|from| Expr::col(Column::Day).gte(from)))
            .add_option(self.to_day.map(|to| Expr::col(Column::Day).lt(to)));
        for (dimension, name) in &self.only {
            filter = filter.add(Expr::col(dimension.column()).eq(name.as_str()));
        }
        filter
    }
}

/// The statement for the first `limit` groups after the group with the labels `after`.
pub(super) fn select(report: &Report, after: Option<&[Label]>, limit: u64) -> SelectStatement {
    let mut select = Query::select();
    if report.is_of_all_users() {
        select.from(usage_total::Entity);
    } else if let Some(column) = report.names() {
        select.with_cte(names_of_page(report, column, after, limit));
        // SQLite takes the tables of a CROSS JOIN in the order in which they are written.
        select.from(PAGE).join(JoinType::CrossJoin, Entity, Cond::all());
        select.and_where(Expr::col(column).equals((PAGE, NAME)));
    } else {
        select.from(Entity);
    }
    select.limit(limit);
    for column in report.group_by.iter().map(|dimension| dimension.column()) {
        select.column(column).group_by_col(column).order_by(column, Order::Asc);
    }
    for sum in SUMS {
        select.expr(Expr::cust(sum_of(sum)));
    }
    let mut filter = report.filter();
    if let Some(after) = after {
        let here = Expr::tuple(report.group_by.iter().map(|dimension| Expr::col(dimension.column())));
        filter = filter.add(here.gt(Expr::tuple(after.iter().map(|label| Expr::val(label.value())))));
    }
    select.cond_where(filter).to_owned()
}

/// The first `limit` users or keys with usage in the report, from that of the group `after` on, whose other groups may
/// follow: that one may have none left, which is why one more is taken.
fn names_of_page(report: &Report, column: Column, after: Option<&[Label]>, limit: u64) -> WithClause {
    let least = |from: Option<Expr>| {
        let mut least = Query::select();
        least.from(Entity).expr_as(Expr::col(column).min(), NAME).and_where_option(from);
        least
    };
    let first = after.and_then(|after| after.first()).map(|label| Expr::col(column).gte(label.value()));
    let here = || Expr::col((NAMES, NAME));
    let next = least(Some(Expr::col(column).gt(here())));
    let following = Query::select().expr(Expr::from(next)).from(NAMES).and_where(here().is_not_null()).to_owned();
    let all = least(first).union(UnionType::All, following).to_owned();

    let use_of_it = Query::select()
        .expr(Expr::val(1))
        .from(Entity)
        .and_where(Expr::col(column).equals((NAMES, NAME)))
        .cond_where(report.filter())
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

/// The SQL of a sum. Postgres sums bigints to NUMERIC, and no rows at all to null; the cast and the zero mend both.
fn sum_of(sum: &str) -> String {
    let (refused, column) = match sum {
        "refused" => ("=", "requests"),
        column => ("<>", column),
    };
    format!("CAST(coalesce(sum(CASE WHEN status {refused} 'refused' THEN {column} ELSE 0 END), 0) AS bigint)")
}
