//! What is shown of a node's maintenance, and what do clients read of it?
use serde::Serialize;
use utoipa::ToSchema;

use super::time::rfc3339;
use crate::store::Maintenance;

/// A drain by an operator.
#[derive(Debug, Serialize, ToSchema)]
pub struct MaintenanceRecord {
    /// Since when, RFC 3339 in UTC.
    since: String,
    /// Why, in the operator's words; null where none was given.
    #[schema(example = "driver update")]
    reason: Option<String>,
    /// When the node comes back by itself, RFC 3339 in UTC; null where an operator ends it.
    until: Option<String>,
}

impl From<Maintenance> for MaintenanceRecord {
    fn from(Maintenance { since_ms, reason, until_ms }: Maintenance) -> Self {
        Self { since: rfc3339(since_ms), reason, until: until_ms.map(rfc3339) }
    }
}

/// In the middle of a sentence: `under maintenance until 2026-11-27T15:00:00Z: driver update`.
pub(super) fn in_words(maintenance: &Maintenance) -> String {
    let until = maintenance.until_ms.map(|until_ms| format!(" until {}", rfc3339(until_ms))).unwrap_or_default();
    let reason = maintenance.reason.as_deref().map(|reason| format!(": {}", reason.trim_end_matches('.')));
    format!("under maintenance{until}{}", reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maintenance_says_what_is_known_of_it() {
        let said = |reason: Option<&str>, until_ms| {
            in_words(&Maintenance { since_ms: 0, reason: reason.map(str::to_owned), until_ms })
        };
        assert_eq!(said(None, None), "under maintenance");
        assert_eq!(said(Some("dust."), None), "under maintenance: dust");
        assert_eq!(said(Some("dust"), Some(60_000)), "under maintenance until 1970-01-01T00:01:00Z: dust");
    }
}
