//! Which nodes were added while the gateway ran, and which are drained? Nodes of the configuration file are not stored.

/// A node that was added while the gateway ran. Nodes of the configuration file are not stored here.
pub mod node {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "nodes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        /// Its settings as the configuration file would have them, in JSON, including credentials.
        #[sea_orm(column_type = "Text")]
        pub settings: String,
        pub created_at_ms: i64,
        pub changed_at_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A node, from any source, that takes no new requests because an operator drained it.
pub mod drained_node {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "drained_nodes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub since_ms: i64,
        pub reason: Option<String>,
        pub until_ms: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
