//! In which ways can a listing of models be odd?

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock;
use crate::text::digest;

/// The most models that one listing invents.
const MOST_INVENTED: u64 = 1_000_000;

/// What is odd about `/api/tags`, `/api/ps` and `/v1/models`.
#[derive(Clone, Debug, PartialEq)]
pub enum OddListing {
    /// The listings take this long.
    Slow(Duration),
    /// In the first entry, this field has this value; `None` leaves it out. A dot leads into a field, as in
    /// `details.family`.
    Field(String, Option<Value>),
    /// An additional entry, which comes first.
    Entry(Value),
    /// This many new models appear each second: each listing ends with those of the last second.
    Invented(u64),
    /// This body, whatever it is.
    Body(String),
}

/// The oddity in force, and since when.
#[derive(Debug, Default)]
pub(crate) struct Listings(Mutex<Option<(OddListing, Instant)>>);

impl Listings {
    pub(crate) fn set(&self, odd: Option<OddListing>) {
        *self.lock() = odd.map(|odd| (odd, clock::now()));
    }

    /// The listing as the node sends it.
    pub(crate) async fn answer(&self, body: String) -> String {
        let odd = self.lock().clone();
        let Some((odd, since)) = odd else { return body };
        match odd {
            OddListing::Slow(pause) => {
                tokio::time::sleep(pause).await;
                body
            }
            OddListing::Body(body) => body,
            OddListing::Field(path, value) => edited(&body, |entries| set_field(entries.first_mut(), &path, value)),
            OddListing::Entry(entry) => edited(&body, |entries| entries.insert(0, entry)),
            OddListing::Invented(rate) => {
                let seconds = (clock::now() - since).as_secs_f64();
                let rate = rate.min(MOST_INVENTED);
                let first = (seconds * rate as f64) as u64;
                edited(&body, |entries| entries.extend((first..first + rate).map(invented)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(OddListing, Instant)>> {
        self.0.lock().expect("no code panics while it holds the listings")
    }
}

fn edited(body: &str, edit: impl FnOnce(&mut Vec<Value>)) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap_or_default();
    for name in ["models", "data"] {
        if let Some(entries) = body.get_mut(name).and_then(Value::as_array_mut) {
            edit(entries);
            break;
        }
    }
    body.to_string()
}

fn set_field(entry: Option<&mut Value>, path: &str, value: Option<Value>) {
    let (parents, name) = path.rsplit_once('.').map_or(("", path), |(parents, name)| (parents, name));
    let parents = parents.split('.').filter(|parent| !parent.is_empty());
    let object = parents.fold(entry, |object, parent| object?.get_mut(parent));
    let Some(fields) = object.and_then(Value::as_object_mut) else { return };
    match value {
        Some(value) => drop(fields.insert(name.to_owned(), value)),
        None => drop(fields.remove(name)),
    }
}

fn invented(number: u64) -> Value {
    let name = format!("invented-{number}:latest");
    json!({
        "id": name, "name": name, "model": name, "object": "model", "size": 1_000_000, "digest": digest(&name),
        "modified_at": "2026-08-20T10:11:12Z", "expires_at": "2036-08-20T10:11:12Z", "size_vram": 1_000_000,
        "details": {"family": "llama", "families": ["llama"]}, "capabilities": ["completion"],
    })
}
