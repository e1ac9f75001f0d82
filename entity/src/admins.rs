//! Who administers, and what is kept of their keys?

/// A named administrator. What opens the door are the digests of the key.
pub mod admin {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "admins")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        /// `admin`, `operator` or `viewer`.
        pub role: String,
        pub created_at_ms: i64,
        /// `None` = the key does not end.
        pub expires_at_ms: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What is kept of an administrator's key: one digest, or two for a while after it was rotated.
pub mod admin_digest {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "admin_digests")]
    pub struct Model {
        /// The digest of the whole key, 32 bytes.
        #[sea_orm(primary_key, auto_increment = false, column_type = "VarBinary(StringLen::N(32))")]
        pub digest: Vec<u8>,
        /// How `digest` was made: 1 = plain SHA-256, 2 = HMAC-SHA-256 with a pepper.
        pub digest_version: i16,
        /// Which pepper, by its fingerprint.
        pub pepper: Option<String>,
        /// The administrator's name.
        pub admin: String,
        /// The last four characters, for lists.
        pub last_four: String,
        pub created_at_ms: i64,
        /// When it stops, after a rotation; `None` = with its administrator.
        pub expires_at_ms: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
