//! The settings of the database: where users, keys and usage are stored, and how safely.
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sea_orm::sqlx::postgres::PgConnectOptions;
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
    /// Days to keep audit log entries, today (UTC) included, at least 1. Older entries are deleted at the start and hourly;
    /// `audit verify` can still check the rest. `null` = keep entries for ever. Default `null`.
    pub audit_retention_days: Option<u32>,
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
            audit_retention_days: None,
        }
    }
}

impl DatabaseSettings {
    /// The path of a SQLite database, without the URL's options; `None` for Postgres.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let path = self.url.strip_prefix("sqlite:")?;
        // Only once: what follows is the path, and other programs write an absolute one with a slash more.
        let path = path.strip_prefix("//").unwrap_or(path);
        Some(Path::new(path.split('?').next().unwrap_or(path)))
    }

    /// The local file, which stores usage first: the SQLite database itself, or the outbox in front of Postgres.
    pub fn local_path(&self) -> &Path {
        self.sqlite_path().unwrap_or(&self.outbox)
    }

    /// What is wrong with the URL, and what to do about it. Never quotes the URL, which may contain the password.
    pub fn flaw(&self) -> Option<(String, &'static str)> {
        if let Some(path) = self.sqlite_path() {
            return self.sqlite_flaw(path);
        }
        let (_, rest) = self.url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
        if hosts.contains(',') {
            let hint = "name one, or a proxy such as HAProxy or pgbouncer (in session mode) in front of them";
            return Some(("several hosts are not supported".to_owned(), hint));
        }
        const ENCODE: &str =
            "in the user and password, write @ as %40, : as %3A, / as %2F, # as %23 and % as %25, or use password_file";
        match PgConnectOptions::from_str(&self.url) {
            Ok(options) if options.get_port() == 0 => Some(("the port is 0".to_owned(), "5432 is usual")),
            Ok(_) => None,
            Err(error) if error.to_string().contains("ssl") => {
                let message = "`sslmode` is not one that Postgres has".to_owned();
                Some((message, "disable, allow, prefer, require, verify-ca or verify-full"))
            }
            Err(_) => Some(("it cannot be read as postgres://USER:PASSWORD@HOST:PORT/NAME".to_owned(), ENCODE)),
        }
    }

    fn sqlite_flaw(&self, path: &Path) -> Option<(String, &'static str)> {
        let is_file = path.file_name().is_some_and(|name| name != ":memory:") && !path.is_dir();
        if !is_file {
            let hint = "sqlite://PATH, such as sqlite:///var/lib/gateway/gateway.db";
            return Some(("it names no file".to_owned(), hint));
        }
        let (_, options) = self.url.split_once('?')?;
        let is_fit = |option: &str| matches!(option, "mode=rw" | "mode=rwc");
        let unfit = options.split('&').any(|option| !is_fit(option));
        unfit.then(|| ("it has options with which usage cannot be stored".to_owned(), "leave out what follows the ?"))
    }

    /// Whether the URL names a database that the gateway can use.
    pub fn is_known_kind(&self) -> bool {
        ["sqlite:", "postgres://", "postgresql://"].iter().any(|kind| self.url.starts_with(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(url: &str) -> Option<String> {
        let settings = DatabaseSettings { url: url.to_owned(), ..DatabaseSettings::default() };
        settings.flaw().map(|(message, hint)| format!("{message} ({hint})"))
    }

    #[test]
    fn the_path_of_a_file_is_what_follows_two_slashes() {
        for (url, path) in [
            ("sqlite://data/gateway.db", "data/gateway.db"),
            ("sqlite:data/gateway.db", "data/gateway.db"),
            ("sqlite:///data/gateway.db?mode=rw", "/data/gateway.db"),
            ("sqlite:////data/gateway.db", "//data/gateway.db"),
        ] {
            let settings = DatabaseSettings { url: url.to_owned(), ..DatabaseSettings::default() };
            assert_eq!(settings.sqlite_path().and_then(Path::to_str), Some(path), "{url}");
        }
    }

    #[test]
    fn a_url_that_would_not_start_is_told_what_is_wrong_and_no_password_with_it() {
        for good in [
            "sqlite://data/gateway.db",
            "sqlite:///var/lib/a%20b.db",
            "sqlite:///var/lib/gateway.db?mode=rw",
            "postgres://u:p%40ss@h/n?sslmode=require",
            "postgresql://u@[::1]:5432/n",
        ] {
            assert_eq!(flaw(good), None, "{good}");
        }
        for (bad, said) in [
            ("postgres://u:geh@im:w/rd@h/n", "%40"),
            ("postgres://u:geheim@h:99999/n", "cannot be read"),
            ("postgres://u:geheim@h:0/n", "port is 0"),
            ("postgres://u:geheim@h1:5432,h2:5432/n", "several hosts"),
            ("postgres://u:geheim@h/n?sslmode=geheim", "sslmode"),
            ("sqlite://", "names no file"),
            ("sqlite:///tmp/..", "names no file"),
            ("sqlite::memory:", "names no file"),
            ("sqlite:///tmp/gateway.db?mode=memory", "options"),
            ("sqlite:///tmp/gateway.db?mode=ro", "options"),
            ("sqlite:///tmp/gateway.db?mode=rwc&vfs=geheim", "options"),
        ] {
            let flaw = flaw(bad).unwrap_or_else(|| panic!("{bad}"));
            assert!(flaw.contains(said) && !flaw.contains("geh"), "{bad}: {flaw}");
        }
    }
}
