//! The configuration, read again.
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::web::{Data, Json};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::fleet::Changes;
use crate::http::answers;
use crate::http::auth::Admin;
use crate::http::error::ApiError;

type Reloading = Pin<Box<dyn Future<Output = Result<ReloadReport, String>> + Send>>;

/// Does the reload, wherever that is done.
#[derive(Clone)]
pub struct Reload(Arc<dyn Fn() -> Reloading + Send + Sync>);

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reload")
    }
}

impl Reload {
    /// By calling `reload`.
    pub fn new<F>(reload: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<ReloadReport, String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(reload())))
    }
}

/// What a reload did.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReloadReport {
    /// Settings that changed and are in force.
    #[schema(example = json!(["nodes"]))]
    applied: Vec<String>,
    /// Settings that changed and wait for a restart.
    #[schema(example = json!(["server.bind"]))]
    needs_restart: Vec<String>,
    /// What became of the nodes.
    nodes: NodeChanges,
}

/// Nodes by what became of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeChanges {
    /// New ones.
    joined: Vec<String>,
    /// Those that are gone; what runs there may end.
    left: Vec<String>,
    /// Those with other settings.
    changed: Vec<String>,
}

impl ReloadReport {
    /// A report.
    pub fn new(applied: Vec<String>, needs_restart: Vec<String>, nodes: Changes) -> Self {
        let Changes { joined, left, changed } = nodes;
        Self { applied, needs_restart, nodes: NodeChanges { joined, left, changed } }
    }
}

/// Reload the configuration
///
/// Reads gateway.yaml and the environment again, as SIGHUP does. All of it is checked first: a mistake is a 400 that names
/// every one, and changes nothing. Nodes, other names of models and the limits of new users are in force at once.
#[utoipa::path(
    post, path = "/admin/reload", tag = "admin", security(("admin_key" = [])),
    responses((status = 200, body = ReloadReport), answers::AdminResponses),
)]
pub async fn reload(admin: Admin, reload: Data<Reload>) -> Result<Json<ReloadReport>, ApiError> {
    admin.begins("configuration", None).await?;
    let report = (reload.0)().await.map_err(ApiError::invalid)?;
    admin.changes("configuration", None, Some(json!(report)));
    Ok(Json(report))
}
