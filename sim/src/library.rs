//! How do models get onto the node's disk and off it? `/api/pull` and `/api/delete`.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::HttpResponse;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use crate::config::SimConfig;
use crate::dialect::{first_given, read};
use crate::error::{ApiError, Wire, json, json_type};
use crate::model::{SimModel, find};
use crate::names::ModelName;
use crate::state::NodeData;

/// Progress reports while one model is pulled.
const REPORTS: u64 = 10;

#[derive(Deserialize)]
struct LibraryRequest {
    model: Option<String>,
    name: Option<String>,
    stream: Option<bool>,
}

impl LibraryRequest {
    fn read(body: &[u8]) -> Result<(String, bool), ApiError> {
        let request: Self = read(body)?;
        let name = first_given([request.model, request.name]);
        if ModelName::parse(&name).is_none() {
            return Err(ApiError::bad_request("invalid model name"));
        }
        Ok((name, request.stream.unwrap_or(true)))
    }
}

#[derive(Serialize)]
struct PullProgress {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl PullProgress {
    fn of(status: &str) -> Self {
        Self { status: status.to_owned(), digest: None, total: None, completed: None }
    }
}

/// `POST /api/pull`: lines of progress; an unknown model ends in an error line.
pub(crate) fn pull(node: &NodeData, body: &[u8]) -> Result<HttpResponse, ApiError> {
    let (name, is_stream) = LibraryRequest::read(body)?;
    let lines = pulling(node.clone(), name);
    if is_stream {
        let lines = lines.map(|line| Ok::<_, Infallible>(Bytes::from(line + "\n")));
        return Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines));
    }
    // Not awaited here, so that the head is sent at once and the body when everything is done.
    let last = stream::once(async move {
        let lines: Vec<String> = lines.collect().await;
        Ok::<_, Infallible>(Bytes::from(lines.last().cloned().unwrap_or_default()))
    });
    Ok(HttpResponse::Ok().content_type(json_type(Wire::Native)).streaming(last))
}

fn pulling(node: NodeData, name: String) -> impl Stream<Item = String> {
    let config = node.engine.config();
    let model = find(&config.pullable, &name).or_else(|| find(&config.models, &name)).cloned();
    let mut lines = vec![(Duration::ZERO, json(&PullProgress::of("pulling manifest")))];
    match &model {
        None => lines.push((Duration::ZERO, r#"{"error":"pull model manifest: file does not exist"}"#.to_owned())),
        Some(model) => lines.extend(reports(config, model)),
    }
    let count = lines.len();
    stream::iter(lines.into_iter().enumerate()).then(move |(index, (pause, line))| {
        let (node, model) = (node.clone(), model.clone());
        async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if let (true, Some(model)) = (index + 1 == count, model) {
                node.engine.disk().add(model);
            }
            line
        }
    })
}

/// Each line of a pull, with the pause before it.
fn reports(config: &SimConfig, model: &SimModel) -> Vec<(Duration, String)> {
    let digest = model.digest();
    let layer = |completed: u64| PullProgress {
        status: format!("pulling {}", &digest[..12]),
        digest: Some(format!("sha256:{digest}")),
        total: Some(model.size_bytes),
        completed: (completed > 0).then_some(completed),
    };
    let pause = model.size_bytes as f64 / config.pull_bytes_per_second / REPORTS as f64;
    let pause = Duration::try_from_secs_f64(pause).unwrap_or(Duration::from_secs(3600));
    let mut lines = vec![(Duration::ZERO, json(&layer(0)))];
    lines.extend((1..=REPORTS).map(|part| (pause, json(&layer(model.size_bytes / REPORTS * part)))));
    let last = ["verifying sha256 digest", "writing manifest", "success"];
    lines.extend(last.map(|status| (Duration::ZERO, json(&PullProgress::of(status)))));
    lines
}

/// `DELETE /api/delete`: an empty body, or 404.
pub(crate) fn delete(node: &NodeData, body: &[u8]) -> Result<HttpResponse, ApiError> {
    let (name, _) = LibraryRequest::read(body)?;
    let model = node.engine.disk().remove(&name).ok_or_else(|| ApiError::model_not_found(&name))?;
    node.engine.unload(&model);
    Ok(HttpResponse::Ok().finish())
}
