//! Which error of another module becomes which status?
use std::borrow::Cow;

use super::{ApiError, STORAGE_RETRY};
use crate::fleet::RosterError;
use crate::http::error_kind;
use crate::store::StoreError;
use protocol::BadRequest;

impl From<BadRequest> for ApiError {
    fn from(bad: BadRequest) -> Self {
        Self::invalid(bad.message).with(|words| words.param = bad.param.map(Cow::Borrowed))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(_)
            | StoreError::KeyExists(_)
            | StoreError::NodeExists(_)
            | StoreError::AdminExists(_)
            | StoreError::GroupExists(_)
            | StoreError::GroupHasUsers { .. } => Self::conflict(error.to_string()),
            StoreError::NotFound(_)
            | StoreError::NoKey(_)
            | StoreError::NoNode(_)
            | StoreError::NoAdmin(_)
            | StoreError::NoGroup(_) => Self::not_found(error.to_string()),
            StoreError::TooManyKeys(_) | StoreError::TooManyAdmins(_) | StoreError::TooManyGroups(_) => {
                Self::invalid(error.to_string())
            }
            StoreError::TimedOut(_)
            | StoreError::NoAnswer(_)
            | StoreError::Database(_)
            | StoreError::Commit(_)
            | StoreError::Thread(_)
            | StoreError::Damaged { .. }
            | StoreError::File { .. }
            | StoreError::InUse { .. }
            | StoreError::Newer
            | StoreError::NotGranted(_)
            | StoreError::SharedSessions
            | StoreError::Backup { .. }
            | StoreError::Randomness(_)
            | StoreError::PepperFile { .. }
            | StoreError::PasswordFile { .. } => {
                // A database's message may quote the statement, so only the operator sees it.
                tracing::error!(%error, "the database failed, and a request with it");
                let message = "The database is not available. Please try again in 5s.";
                Self::unavailable(&error_kind::STORAGE_UNAVAILABLE, message, STORAGE_RETRY)
            }
        }
    }
}

impl From<RosterError> for ApiError {
    fn from(error: RosterError) -> Self {
        match error {
            RosterError::Unknown(_) => Self::not_found(error.to_string()),
            RosterError::Exists(_) => Self::conflict(error.to_string()),
            RosterError::InFile(_) | RosterError::Discovered(_) => {
                Self::conflict(error.to_string()).with(|words| words.kind = &error_kind::NOT_CHANGEABLE)
            }
            RosterError::Flawed(flaw) => Self::invalid_field(flaw.key, flaw.to_string()),
            RosterError::Store(error) => error.into(),
        }
    }
}
