//! The audit log as CSV (RFC 4180), read from the database page by page as the client takes it.
use actix_web::HttpResponse;
use bytes::Bytes;

use crate::http::csv::{self, as_text, lines};
use crate::http::error::ApiError;
use crate::http::time::rfc3339;
use crate::store::{AuditLine, AuditSearch, Store};

/// Entries that are held at a time.
const PAGE: u64 = 1000;

const HEADINGS: [&str; 12] =
    ["seq", "at", "admin", "role", "method", "route", "target", "before", "after", "request_id", "status", "digest"];

/// What is still to come.
struct Pages {
    store: Store,
    search: AuditSearch,
    has_ended: bool,
}

/// The answer.
///
/// # Errors
/// When the database fails.
pub(super) async fn answer(store: Store, search: AuditSearch) -> Result<HttpResponse, ApiError> {
    let headings = lines([HEADINGS.map(str::to_owned).to_vec()])?;
    let mut pages = Pages { store, search, has_ended: false };
    csv::answer("audit", headings, async move || pages.next().await).await
}

impl Pages {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.has_ended {
            return Ok(None);
        }
        let (page, more) = self.store.audit_page(self.search.clone(), PAGE).await?;
        self.has_ended = !more;
        self.search.before = page.last().map(|line| line.seq);
        lines(page.into_iter().map(fields)).map(Some)
    }
}

fn fields(line: AuditLine) -> Vec<String> {
    vec![
        line.seq.to_string(),
        rfc3339(line.at_ms),
        as_text(line.actor),
        line.role,
        line.method,
        line.route,
        as_text(line.target),
        line.before.unwrap_or_default(),
        line.after.unwrap_or_default(),
        line.request_id.to_string(),
        line.status.map(|status| status.to_string()).unwrap_or_default(),
        line.digest,
    ]
}
