//! From when until when is a certificate valid? The few bytes of it that say so (RFC 5280, section 4.1).
use rustls::pki_types::CertificateDer;
use time::{Date, Month, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which oldest certificates do not have.
const VERSION: u8 = 0xa0;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

impl Validity {
    /// `None` if these bytes are no certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (whole, _) = element(certificate, Some(SEQUENCE))?;
        let (mut rest, _) = element(whole, Some(SEQUENCE))?;
        if rest.first() == Some(&VERSION) {
            rest = element(rest, None)?.1;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            rest = element(rest, None)?.1;
        }
        let (dates, _) = element(rest, Some(SEQUENCE))?;
        let (not_before, dates) = moment(dates)?;
        let (not_after, _) = moment(dates)?;
        Some(Self { not_before, not_after })
    }
}

/// The content of the first element, and what follows it.
fn element(bytes: &[u8], wanted: Option<u8>) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    wanted.is_none_or(|wanted| wanted == tag).then(|| rest.split_at_checked(length))?
}

/// The first element as a time, and what follows it.
fn moment(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let tag = *bytes.first()?;
    let (text, rest) = element(bytes, None)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = two(text)?;
            // Two digits mean the years from 1950 to 2049.
            (i32::from(year) + if year < 50 { 2000 } else { 1900 }, text)
        }
        GENERALIZED_TIME => {
            let (century, text) = two(text)?;
            let (year, text) = two(text)?;
            (i32::from(century) * 100 + i32::from(year), text)
        }
        _ => return None,
    };
    let (month, text) = two(text)?;
    let (day, text) = two(text)?;
    let (hour, text) = two(text)?;
    let (minute, text) = two(text)?;
    let (second, text) = two(text)?;
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    text.is_empty().then(|| (PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp(), rest))
}

/// The number of the first two digits, and what follows them.
fn two(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| Some((digits.parse().ok()?, rest)))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn made(from: (i32, u8, u8), until: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["gateway.test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn both_forms_of_a_date_are_read() {
        for (from, until) in
            [((1999, 12, 31), (2049, 12, 31)), ((2026, 2, 28), (2050, 1, 1)), ((2051, 3, 1), (9999, 1, 2))]
        {
            let seconds = |(year, month, day)| date_time_ymd(year, month, day).unix_timestamp();
            let read = Validity::of(&made(from, until));
            assert_eq!(read, Some(Validity { not_before: seconds(from), not_after: seconds(until) }), "{from:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_nothing_panics(at in 0usize..300, byte: u8, length in 0usize..300) {
            let mut bytes = made((2026, 1, 1), (2027, 1, 1)).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(length);
            let _ = Validity::of(&CertificateDer::from(bytes));
        }
    }
}
