//! Where are rows kept, and how safely?
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where users, keys and usage are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `sqlite://PATH` (created if missing) or `postgres://USER:PASSWORD@HOST:PORT/NAME`. Default
    /// `sqlite://data/gateway.db`.
    pub url: String,
    /// A file that holds the password, so that it stays out of `url`. Postgres only. Default `null`.
    pub password_file: Option<PathBuf>,
    /// With Postgres: the local SQLite file that keeps usage rows until Postgres has them (created if missing).
    /// Each gateway needs its own, on a disk that outlives the process. Default `data/outbox.db`.
    pub outbox: PathBuf,
    /// What a usage row survives once its answer is complete: `normal` = the gateway being killed, `full` = a power
    /// cut as well, at the price of a disk sync before each answer ends. Default `normal`.
    pub synchronous: Synchronous,
    /// Share of each limit that one of several gateways on the same Postgres may hold in reserve, percent, 1 to 50.
    /// A larger reserve carries a gateway further through an outage of Postgres; a smaller one leaves more for the
    /// others. Default `5`.
    pub lease_percent: u8,
    /// How long one of several gateways keeps its share of the limits after it has lost Postgres, seconds, 10 to
    /// 3600. After that it refuses requests under a limit with 503, and the others may use the share. All gateways
    /// need the same value. Default `60`.
    pub lease_seconds: u64,
    /// Days to keep usage rows, today (UTC) included, at least 2. Older rows are deleted at the start and hourly;
    /// their daily sums stay and `GET /admin/usage` still reports them. `null` = keep rows for ever. Default
    /// `null`.
    pub usage_retention_days: Option<u32>,
}

/// What an acknowledged row survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// The death of the process. A power cut may take the last moments.
    #[default]
    Normal,
    /// A power cut, too: every group of rows waits for the disk.
    Full,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            url: "sqlite://data/gateway.db".to_owned(),
            password_file: None,
            outbox: PathBuf::from("data/outbox.db"),
            synchronous: Synchronous::default(),
            lease_percent: 5,
            lease_seconds: 60,
            usage_retention_days: None,
        }
    }
}

impl DatabaseSettings {
    /// The file of a SQLite database, without options; `None` for Postgres.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let path = self.url.strip_prefix("sqlite:")?.trim_start_matches("//");
        Some(Path::new(path.split('?').next().unwrap_or(path)))
    }

    /// The file in which usage is safe first: the SQLite database itself, or the outbox in front of Postgres.
    pub fn local_path(&self) -> &Path {
        self.sqlite_path().unwrap_or(&self.outbox)
    }

    /// Whether the URL names a database that the gateway can use.
    pub fn is_known_kind(&self) -> bool {
        ["sqlite:", "postgres://", "postgresql://"].iter().any(|kind| self.url.starts_with(kind))
    }
}
