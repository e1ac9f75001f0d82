//! A whole report as CSV (RFC 4180), read from the database page by page as the client takes it.
use std::sync::Arc;

use actix_web::HttpResponse;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::http::csv;
use crate::http::csv::{as_text, lines};
use crate::http::error::ApiError;
use crate::http::reads::Reads;
use crate::store::{Dimension, Group, Label, Report, Store};

/// Groups that are held at a time. What a page costs besides its groups, it costs again for each page.
const PAGE: u64 = 5000;

const SUMS: [&str; 10] = [
    "requests",
    "refused",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "queue_ms",
    "duration_ms",
    "load_ms",
    "prefill_ms",
    "decode_ms",
];

/// What of a report is still to come.
struct Pages {
    store: Store,
    reads: Arc<Reads>,
    report: Report,
    after: Option<Vec<Label>>,
    has_ended: bool,
}

/// The answer.
///
/// # Errors
/// When the database fails.
pub(super) async fn answer(store: Store, report: Report, reads: Arc<Reads>) -> Result<HttpResponse, ApiError> {
    let headings = headings(&report.group_by)?;
    let mut pages = Pages { store, reads, report, after: None, has_ended: false };
    csv::answer("usage", headings, async move || pages.next().await).await
}

impl Pages {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        if self.has_ended {
            return Ok(None);
        }
        // For each page, as a client may take its time with them.
        let _turn = self.reads.report().await?;
        let (groups, more) = self.store.report_page(&self.report, self.after.as_deref(), PAGE).await?;
        self.has_ended = !more;
        self.after = groups.last().map(|group| group.labels.clone());
        lines(groups.iter().map(fields)).map(Some)
    }
}

fn headings(group_by: &[Dimension]) -> Result<Bytes, ApiError> {
    let heading = |dimension: &Dimension| match dimension {
        Dimension::User => "user_id",
        Dimension::Key => "key_id",
        Dimension::Group => "group_id",
        other => other.as_str(),
    };
    lines([group_by.iter().map(heading).chain(SUMS).map(str::to_owned).collect()])
}

/// The fields of a group, as [`headings`] names them.
fn fields(group: &Group) -> Vec<String> {
    let sums = group.sums;
    let numbers = [
        sums.requests,
        sums.refused,
        sums.prompt_tokens,
        sums.completion_tokens,
        sums.prompt_tokens.saturating_add(sums.completion_tokens),
        sums.queue_ms,
        sums.duration_ms,
        sums.load_ms,
        sums.prefill_ms,
        sums.decode_ms,
    ];
    group.labels.iter().map(text_of).map(as_text).chain(numbers.map(|number| number.to_string())).collect()
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A day as a date; anything else is its own name.
pub(super) fn text_of(label: &Label) -> String {
    match label {
        Label::Day(day) => OffsetDateTime::from_unix_timestamp(i64::from(*day) * DAY_SECONDS)
            .map(|moment| moment.date().to_string())
            .unwrap_or_default(),
        Label::Name(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sums;

    #[test]
    fn a_name_with_commas_quotes_and_lines_is_one_field() {
        let labels = vec![Label::Name("a,\"b\"\nc".to_owned()), Label::Name(String::new()), Label::Day(20_782)];
        let sums = Sums { requests: 1, prompt_tokens: 2, completion_tokens: 3, ..Sums::default() };
        let line = lines([fields(&Group { labels, sums })]).unwrap();
        assert_eq!(line, "\"a,\"\"b\"\"\nc\",,2026-11-25,1,0,2,3,5,0,0,0,0,0\r\n");
        let headings = headings(&[Dimension::User, Dimension::Key]).unwrap();
        assert!(headings.starts_with(b"user_id,key_id,requests,refused,"), "{headings:?}");
    }
}
