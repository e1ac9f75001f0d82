//! Why can the nodes not be changed as somebody asks?
use crate::flaw::Flaw;
use crate::store::StoreError;

/// Why the nodes were not changed.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// There is no such node.
    #[error("there is no node `{0}`")]
    Unknown(String),
    /// The name is taken.
    #[error("node `{0}` exists already")]
    Exists(String),
    /// The node is configured in the file.
    #[error("node `{0}` is configured in gateway.yaml: change it there, then POST /admin/reload")]
    InFile(String),
    /// The node comes from DNS.
    #[error("node `{0}` was discovered: change or remove the entry that discovers it")]
    Discovered(String),
    /// The resulting settings cannot be used.
    #[error("{0}")]
    Flawed(Flaw),
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for RosterError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NodeExists(name) => Self::Exists(name),
            StoreError::NoNode(name) => Self::Unknown(name),
            other => Self::Store(other),
        }
    }
}
