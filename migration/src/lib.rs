//! The schema, one step for each file, the same for SQLite and Postgres.
use sea_orm_migration::prelude::*;

mod l20261125_000001_running_outbox;
mod l20261125_000002_learned;
mod l20261125_000003_identity;
mod l20261125_000004_people_copy;
mod l20261127_000005_swept_tokens;
mod m20261123_000001_users_keys_usage;
mod m20261125_000001_usage_node_time;
mod m20261125_000002_keys_limits;
mod m20261125_000100_nodes;
mod m20261125_000300_usage_rollups;
mod m20261125_000400_leases;
mod m20261125_000500_people_changes;
mod m20261127_000001_usage_reasons;
mod m20261127_000100_gateway_stances;
mod m20261127_000200_administration;
mod m20261127_000300_user_fields;
mod m20261127_000400_groups;
mod m20261127_000500_maintenance;
mod m20261127_000600_scheduler_lease;
mod m20261127_000800_gateway_busy;
mod m20261127_000900_usage_totals;
mod m20261128_000100_usage_by_key;
mod m20261128_000200_usage_by_kind;
mod m20261128_000300_usage_by_kind_and_user;

pub use m20261125_000500_people_changes::{PEOPLE_CHANNEL, PEOPLE_LOCK};
pub use m20261127_000200_administration::{follow_admins_on_sqlite, forget_admins_on_sqlite};
pub use m20261127_000400_groups::{follow_people_on_sqlite, forget_people_on_sqlite};
pub use m20261127_000900_usage_totals::{fill_rollups, follow_rollups_on_sqlite, sum_up_on_sqlite};

/// Every step in order. The caller holds a lock, so that several gateways may start at once.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_users_keys_usage::Migration),
            Box::new(m20261125_000001_usage_node_time::Migration),
            Box::new(m20261125_000002_keys_limits::Migration),
            Box::new(m20261125_000100_nodes::Migration),
            Box::new(m20261125_000300_usage_rollups::Migration),
            Box::new(m20261125_000400_leases::Migration),
            Box::new(m20261125_000500_people_changes::Migration),
            Box::new(m20261127_000001_usage_reasons::Migration),
            Box::new(m20261127_000100_gateway_stances::Migration),
            Box::new(m20261127_000200_administration::Migration),
            Box::new(m20261127_000300_user_fields::Migration),
            Box::new(m20261127_000400_groups::Migration),
            Box::new(m20261127_000500_maintenance::Migration),
            Box::new(m20261127_000600_scheduler_lease::Migration),
            Box::new(m20261127_000800_gateway_busy::Migration),
            Box::new(m20261127_000900_usage_totals::Migration),
            Box::new(m20261128_000100_usage_by_key::Migration),
            Box::new(m20261128_000200_usage_by_kind::Migration),
            Box::new(m20261128_000300_usage_by_kind_and_user::Migration),
        ]
    }
}

/// What only the local file has in addition: usage on its way from memory to the database.
#[derive(Debug)]
pub struct LocalMigrator;

#[async_trait::async_trait]
impl MigratorTrait for LocalMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(l20261125_000001_running_outbox::Migration),
            Box::new(l20261125_000002_learned::Migration),
            Box::new(l20261125_000003_identity::Migration),
            Box::new(l20261125_000004_people_copy::Migration),
            Box::new(l20261127_000005_swept_tokens::Migration),
        ]
    }

    fn migration_table_name() -> DynIden {
        "local_migrations".into_iden()
    }
}
