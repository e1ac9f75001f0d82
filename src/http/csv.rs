//! How are lists written as CSV (RFC 4180)?
use bytes::Bytes;

use super::error::ApiError;

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
