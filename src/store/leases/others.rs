//! Which other gateways live on the same Postgres? For a command that only looks.
use std::time::Duration;

use entity::identity;
use sea_orm::{Database, EntityTrait, TransactionTrait};

use super::table::Gateways;
use crate::store::database::read_only;
use crate::store::deadline::within;
use crate::store::error::StoreError;
use crate::store::settings::DatabaseSettings;

/// Longest wait for each database.
const DEADLINE: Duration = Duration::from_secs(2);

/// The other gateways that live on the same Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherGateways {
    /// How many.
    pub count: usize,
    /// Those among them that offer no link.
    pub unlinked: usize,
}

impl OtherGateways {
    /// Looks into Postgres, and changes nothing. Where no gateway has run yet with this local file, all that live are
    /// others.
    ///
    /// # Errors
    /// When the database is away, or has no schema yet.
    pub async fn find(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        let own = own_name(settings).await.unwrap_or_default();
        let options = read_only(settings)?;
        let looking = async {
            let db = Database::connect(options).await?;
            let transaction = db.begin().await?;
            let gateways = Gateways::read(&transaction, &own).await?;
            transaction.rollback().await?;
            db.close().await?;
            Ok(gateways)
        };
        let gateways = within(DEADLINE, looking).await?;
        let others = gateways.peers.iter().filter(|(_, (peer, _))| !peer.is_gone(Duration::MAX));
        let names: Vec<&String> = others.map(|(name, _)| name).collect();
        let unlinked = names.iter().filter(|name| !gateways.links.contains_key(**name)).count();
        Ok(Self { count: names.len(), unlinked })
    }
}

/// The name of the gateway that uses this local file.
async fn own_name(settings: &DatabaseSettings) -> Option<String> {
    let path = settings.local_path();
    if !path.exists() {
        return None;
    }
    let url = format!("sqlite://{}", path.display());
    let options = read_only(&DatabaseSettings { url, password_file: None, ..settings.clone() }).ok()?;
    let looking = async {
        let db = Database::connect(options).await?;
        let row = identity::Entity::find().one(&db).await?;
        db.close().await?;
        Ok(row)
    };
    Some(within(DEADLINE, looking).await.ok()??.gateway)
}
