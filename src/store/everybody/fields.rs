//! What is in the rows that Postgres copies out in its binary format? The header is before the first row and a mark after
//! the last; a row is the number of its fields, and for each its length and its bytes, or -1 for null.
use thiserror::Error;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In the place of the number of fields.
const END: i16 = -1;

/// The rows are not what they should be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the database copied rows out in a form that cannot be read")]
pub(super) struct Unreadable;

/// The fields of a row that have not been read yet.
#[derive(Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

/// Reads every row of a piece, which ends with a row.
pub(super) fn each_row<'a>(
    piece: &'a [u8],
    mut take: impl FnMut(&mut Fields<'a>) -> Result<(), Unreadable>,
) -> Result<(), Unreadable> {
    let mut fields = Fields(piece.strip_prefix(HEADER).unwrap_or(piece));
    while !fields.0.is_empty() {
        if i16::from_be_bytes(fields.take_array()?) == END {
            return if fields.0.is_empty() { Ok(()) } else { Err(Unreadable) };
        }
        take(&mut fields)?;
    }
    Ok(())
}

impl<'a> Fields<'a> {
    /// The bytes of the next field, unless it is null.
    fn next(&mut self) -> Result<Option<&'a [u8]>, Unreadable> {
        let length = i32::from_be_bytes(self.take_array()?);
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| Unreadable)?;
        let (field, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(Some(field))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        self.next()?.ok_or(Unreadable)
    }

    pub(super) fn text_if_any(&mut self) -> Result<Option<&'a str>, Unreadable> {
        self.next()?.map(|bytes| std::str::from_utf8(bytes).map_err(|_| Unreadable)).transpose()
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Unreadable> {
        self.text_if_any()?.ok_or(Unreadable)
    }

    /// A bigint.
    pub(super) fn number_if_any(&mut self) -> Result<Option<i64>, Unreadable> {
        let number = self.next()?.map(|bytes| bytes.try_into().map(i64::from_be_bytes));
        number.transpose().map_err(|_| Unreadable)
    }

    pub(super) fn number(&mut self) -> Result<i64, Unreadable> {
        self.number_if_any()?.ok_or(Unreadable)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Unreadable)?;
        self.0 = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text and a number, as `COPY (VALUES ('ann', 7::bigint), ('', NULL)) TO STDOUT (FORMAT binary)` writes them.
    const ROWS: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\
        \0\x02\0\0\0\x03ann\0\0\0\x08\0\0\0\0\0\0\0\x07\
        \0\x02\0\0\0\0\xff\xff\xff\xff\xff\xff";

    fn read(piece: &[u8]) -> Result<Vec<(&str, Option<i64>)>, Unreadable> {
        let mut rows = Vec::new();
        each_row(piece, |fields| {
            rows.push((fields.text()?, fields.number_if_any()?));
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn rows_are_read_with_and_without_what_is_around_them() {
        assert_eq!(read(ROWS), Ok(vec![("ann", Some(7)), ("", None)]));
        let first = HEADER.len()..ROWS.len() - 12;
        assert_eq!(read(&ROWS[first]), Ok(vec![("ann", Some(7))]));
        assert_eq!(read(b"\xff\xff"), Ok(Vec::new()));
        assert_eq!(read(HEADER), Ok(Vec::new()));
    }

    #[test]
    fn no_part_of_a_row_is_taken_for_a_row() {
        let whole = HEADER.len() + 21;
        for end in (HEADER.len() + 1)..ROWS.len() {
            let read = read(&ROWS[..end]);
            let is_whole = [whole, whole + 10, whole + 12].contains(&end);
            assert_eq!(read.is_ok(), is_whole, "{end}: {read:?}");
        }
        // Null where there must be a text, a number of four bytes, and bytes after the end.
        for bad in [&b"\0\x01\xff\xff\xff\xff"[..], b"\0\x02\0\0\0\0\0\0\0\x04\0\0\0\x01", b"\xff\xff\0"] {
            assert_eq!(read(bad), Err(Unreadable), "{bad:?}");
        }
    }
}
