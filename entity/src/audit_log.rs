//! What did administrators do? Entries, and the ends of their chain.

/// One entry of what administrators did. Entries are only ever added, and each holds the digest of the one before.
pub mod audit {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit")]
    pub struct Model {
        /// From 1, without gaps.
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub at_ms: i64,
        /// The administrator's name.
        pub actor: String,
        /// What the administrator was then.
        pub role: String,
        pub method: String,
        /// The route's template.
        pub route: String,
        /// To whom or what.
        pub target: String,
        /// JSON, without secrets; `None` where nothing was there, or it is not known.
        #[sea_orm(column_type = "Text", nullable)]
        pub before: Option<String>,
        /// JSON, without secrets; `None` where nothing is there any more.
        #[sea_orm(column_type = "Text", nullable)]
        pub after: Option<String>,
        pub request_id: Uuid,
        /// The answer's status; `None` = it was about to be done, and a later entry says how it ended.
        pub status: Option<i32>,
        /// The digest of the entry before, in hex.
        pub previous: String,
        /// Of this entry, in hex.
        pub digest: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Both ends of the chain of audit entries. One row, which whoever adds an entry or deletes old ones locks.
pub mod audit_chain {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_chain")]
    pub struct Model {
        /// Always 1.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        /// The first entry that is kept, or the next one where none is.
        pub first_seq: i64,
        /// The digest of the entry before it; empty for the very first.
        pub first_previous: String,
        /// The last entry; 0 where there never was one.
        pub last_seq: i64,
        /// Its digest.
        pub last_digest: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
