//! A gateway on this database; the gateways share limits and slots.
use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "gateways")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// When it last reported that it is alive, by the database's clock.
    pub renewed_ms: i64,
    /// Since when it has reported without a gap, by the same clock.
    pub since_ms: i64,
    /// How long it may be silent before its leases end.
    pub patience_ms: i64,
    /// Whether it has every limit to itself, so that no other gateway may use any.
    pub is_sole: bool,
    /// Whether it has signed off.
    pub has_left: bool,
    /// The gateways among which it wants to divide the nodes' slots, separated by commas; none from a version that does
    /// not divide them.
    pub members: Option<String>,
    /// Counts how often the left-over slots of the division were passed on.
    pub turn: Option<i64>,
    /// Whether it keeps to its share of this division.
    pub fits: Option<bool>,
    /// Where its link to the other gateways listens; none if it has no link that works.
    pub link: Option<String>,
    /// When what it runs should be over, by the database's clock. If it falls silent, its slots stay taken until then.
    pub busy_until_ms: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
