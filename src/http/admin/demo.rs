//! The demo's traffic, turned on and off. Only the demo has these routes.
use actix_web::web::{self, Data, Json, ServiceConfig};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::http::auth::Admin;
use crate::http::body::JsonObject;
use crate::http::error::ApiError;
use crate::http::resource::resource;

/// Whether simulated people use the demo. The server holds one end, whoever simulates them follows the other.
#[derive(Clone, Debug)]
pub struct DemoTraffic(watch::Sender<bool>);

/// The state of the demo's traffic, as it is shown and as it is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Traffic {
    traffic: bool,
}

impl Default for DemoTraffic {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl DemoTraffic {
    /// Follows whether it is on.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

/// The routes of the demo.
pub(in crate::http) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/admin/demo", "GET, HEAD, PUT").route(web::get().to(retrieve)).route(web::put().to(change)));
}

async fn retrieve(_: Admin, traffic: Data<DemoTraffic>) -> Json<Traffic> {
    Json(Traffic { traffic: *traffic.0.borrow() })
}

async fn change(
    admin: Admin,
    traffic: Data<DemoTraffic>,
    JsonObject(asked): JsonObject<Traffic>,
) -> Result<Json<Traffic>, ApiError> {
    admin.begins("traffic", Some(json!(asked))).await?;
    traffic.0.send_replace(asked.traffic);
    Ok(Json(asked))
}
