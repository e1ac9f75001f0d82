//! The schema, one step a file, the same for SQLite and Postgres.
use sea_orm_migration::prelude::*;

mod m20261123_000001_users_keys_usage;

/// Every step in order. The caller holds the lock that lets several gateways start at once.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261123_000001_users_keys_usage::Migration)]
    }
}
