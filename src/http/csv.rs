//! When is a list asked for as CSV (RFC 4180), and how is it written?
use actix_web::HttpResponse;
use actix_web::http::header::{ACCEPT, HeaderMap};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use super::error::ApiError;

/// What the parameter `format` may be.
pub(super) fn format_schema() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["json", "csv"]));
    text.description(Some("`csv` is all of it at once. Default `json`, or what `Accept` names.")).into()
}

/// Whether a list is asked for as a table, which is always all of it.
///
/// # Errors
/// Another `format`, or a page of a table.
pub(super) fn is_asked_for(
    headers: &HeaderMap,
    format: Option<&str>,
    limit: Option<u64>,
    after: Option<&str>,
) -> Result<bool, ApiError> {
    let is_accepted =
        |kind: &str| headers.get(ACCEPT).is_some_and(|value| value.as_bytes().starts_with(kind.as_bytes()));
    match format {
        Some("json") => Ok(false),
        None if !is_accepted("text/csv") => Ok(false),
        None | Some("csv") => match (limit, after) {
            (None, None) => Ok(true),
            (Some(_), _) => {
                Err(ApiError::invalid_field("limit", "`limit` is for JSON only; CSV is never cut into pages."))
            }
            (_, Some(_)) => {
                Err(ApiError::invalid_field("after", "`after` is for JSON only; CSV is never cut into pages."))
            }
        },
        Some(_) => Err(ApiError::invalid_field("format", "`format` must be `json` or `csv`.")),
    }
}

/// A whole table, read as the client takes it: `next` gives the lines of a page, or `None` after the last. What goes wrong
/// before the first byte is an error like any other; later it breaks the answer off.
///
/// # Errors
/// When the first page cannot be read.
pub(super) async fn answer(
    name: &'static str,
    headings: Bytes,
    mut next: impl AsyncFnMut() -> Result<Option<Bytes>, ApiError> + 'static,
) -> Result<HttpResponse, ApiError> {
    let first = next().await?.unwrap_or_default();
    let rest = stream::try_unfold(next, move |mut next| async move {
        let page = next()
            .await
            .inspect_err(|error| tracing::warn!(table = name, %error, "a CSV table broke off before its end"))?;
        Ok::<_, ApiError>(page.map(|page| (page, next)))
    });
    let body = stream::iter([Ok(headings), Ok(first)]).chain(rest);
    Ok(HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8")
        .insert_header(("content-disposition", format!("attachment; filename=\"{name}.csv\"")))
        .streaming(body.map(|part| part.map_err(actix_web::Error::from))))
}

/// A name that a spreadsheet would take for a formula is marked as text, as spreadsheets do it.
pub(super) fn as_text(name: String) -> String {
    let is_formula = name.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if is_formula { format!("'{name}") } else { name }
}

/// A line for each record.
///
/// # Errors
/// When there is no memory for them.
pub(super) fn lines(records: impl IntoIterator<Item = Vec<String>>) -> Result<Bytes, ApiError> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for record in records {
        writer.write_record(record).map_err(|error| ApiError::internal(error.to_string()))?;
    }
    writer.into_inner().map(Bytes::from).map_err(|error| ApiError::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_a_formula_is_text() {
        for (name, field) in [("=1+1", "'=1+1"), ("@a", "'@a"), ("-1", "'-1"), ("a-1", "a-1"), ("", "")] {
            assert_eq!(as_text(name.to_owned()), field);
        }
    }
}
