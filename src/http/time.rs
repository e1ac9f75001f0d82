//! Reads and writes the times and dates of the API.
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};

use super::error::ApiError;
pub(super) use crate::clock::rfc3339;

/// Parses a time, or a UTC date as its first moment, to milliseconds since 1970; `None` if it is not given.
pub(super) fn moment(field: &'static str, text: Option<&str>) -> Result<Option<i64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let date = time::macros::format_description!("[year]-[month]-[day]");
    let moment = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| Date::parse(text, &date).map(|date| date.midnight().assume_utc()))
        .map_err(|_| ApiError::invalid_field(field, format!("`{field}` must be an RFC 3339 time or a date.")))?;
    Ok(i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok())
}

/// The OpenAPI schema of what [`moment`] takes.
pub(super) fn moment_schema() -> Schema {
    text_of_moment().build().into()
}

/// The same, or null.
pub(super) fn moment_or_null_schema() -> Schema {
    text_of_moment().item(ObjectBuilder::new().schema_type(Type::Null)).build().into()
}

fn text_of_moment() -> OneOfBuilder {
    let text = |format| ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format)));
    OneOfBuilder::new().item(text(KnownFormat::Date)).item(text(KnownFormat::DateTime))
}
