//! What is on the node's disk, and how does it change? `/api/pull` and `/api/delete`.

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix_web::HttpResponse;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use crate::config::{SimConfig, SimModel, with_tag};
use crate::dialect::read;
use crate::error::{ApiError, Wire, json, json_type};
use crate::http::NodeData;
use crate::text::digest;

/// Reports of progress while one model comes.
const REPORTS: u64 = 10;

/// The models on disk.
#[derive(Debug)]
pub(crate) struct Disk(RwLock<Vec<SimModel>>);

impl Disk {
    pub(crate) fn new(models: Vec<SimModel>) -> Self {
        Self(RwLock::new(models))
    }

    /// All of them.
    pub(crate) fn models(&self) -> Vec<SimModel> {
        self.read().clone()
    }

    /// The model a request means: the name as given, or with the tag `latest`.
    pub(crate) fn find(&self, name: &str) -> Option<SimModel> {
        find(&self.read(), name).cloned()
    }

    fn add(&self, model: SimModel) {
        let mut models = self.write();
        models.retain(|known| known.name != model.name);
        models.push(model);
    }

    fn remove(&self, name: &str) -> Option<SimModel> {
        let mut models = self.write();
        let name = find(&models, name)?.name.clone();
        let index = models.iter().position(|model| model.name == name)?;
        Some(models.remove(index))
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<SimModel>> {
        self.0.read().expect("no code panics while it holds the disk")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<SimModel>> {
        self.0.write().expect("no code panics while it holds the disk")
    }
}

fn find<'a>(models: &'a [SimModel], name: &str) -> Option<&'a SimModel> {
    let name = with_tag(name);
    models.iter().find(|model| with_tag(&model.name) == name)
}

#[derive(Deserialize)]
struct ModelRequest {
    model: Option<String>,
    name: Option<String>,
    stream: Option<bool>,
}

impl ModelRequest {
    fn read(body: &[u8]) -> Result<(String, bool), ApiError> {
        let request: Self = read(body)?;
        let name = request.model.or(request.name).unwrap_or_default();
        if name.is_empty() {
            return Err(ApiError::bad_request("invalid model name"));
        }
        Ok((name, request.stream.unwrap_or(true)))
    }
}

#[derive(Serialize)]
struct Progress {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl Progress {
    fn of(status: &str) -> Self {
        Self { status: status.to_owned(), digest: None, total: None, completed: None }
    }
}

/// `POST /api/pull`: lines of progress; a model that nobody has is an error line.
pub(crate) fn pull(node: &NodeData, body: &[u8]) -> Result<HttpResponse, ApiError> {
    let (name, is_stream) = ModelRequest::read(body)?;
    let lines = pulling(node.clone(), name);
    if is_stream {
        let lines = lines.map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(line + "\n")));
        return Ok(HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines));
    }
    // Not awaited here: a body of one part that comes when all is done.
    let last = stream::once(async move {
        let lines: Vec<String> = lines.collect().await;
        Ok::<_, std::convert::Infallible>(Bytes::from(lines.last().cloned().unwrap_or_default()))
    });
    Ok(HttpResponse::Ok().content_type(json_type(Wire::Native)).streaming(last))
}

fn pulling(node: NodeData, name: String) -> impl Stream<Item = String> {
    let config = node.engine.config();
    let model = find(&config.pullable, &name).or_else(|| find(&config.models, &name)).cloned();
    let mut lines = vec![(Duration::ZERO, json(&Progress::of("pulling manifest")))];
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

fn reports(config: &SimConfig, model: &SimModel) -> Vec<(Duration, String)> {
    let digest = digest(&model.manifest());
    let layer = |completed: u64| Progress {
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
    lines.extend(last.map(|status| (Duration::ZERO, json(&Progress::of(status)))));
    lines
}

/// `DELETE /api/delete`: an empty body, or 404.
pub(crate) fn delete(node: &NodeData, body: &[u8]) -> Result<HttpResponse, ApiError> {
    let (name, _) = ModelRequest::read(body)?;
    let model = node.engine.disk().remove(&name).ok_or_else(|| ApiError::model_not_found(&name))?;
    node.engine.unload(&model);
    Ok(HttpResponse::Ok().finish())
}
