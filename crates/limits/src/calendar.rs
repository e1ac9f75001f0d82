//! How is a point in time given, and over which stretch of the calendar do tokens count? Days and months are those of UTC,
//! by the Gregorian calendar.
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic; only differences have a meaning.
    pub uptime: Duration,
    /// Wall clock, milliseconds since 1970-01-01 UTC.
    pub unix_ms: i64,
}

impl Moment {
    /// Days since 1970-01-01 UTC.
    pub fn day(&self) -> i32 {
        i32::try_from(self.unix_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
    }
}

/// A day or a month at a time. Both are counted from 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calendar {
    /// From midnight to midnight.
    #[default]
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Calendar {
    /// The day or month in which a day is.
    pub fn of_day(self, day: i32) -> i32 {
        match self {
            Self::Day => day,
            Self::Month => Month::of_day(day).0,
        }
    }

    /// The day or month of a moment.
    pub fn of(self, now: Moment) -> i32 {
        self.of_day(now.day())
    }

    /// The first and the last day of a day or month.
    pub fn days(self, stretch: i32) -> (i32, i32) {
        match self {
            Self::Day => (stretch, stretch),
            Self::Month => (Month(stretch).first_day(), Month(stretch).next().first_day().saturating_sub(1)),
        }
    }

    /// Until the next one begins.
    pub(crate) fn until_next(self, now: Moment) -> Duration {
        let next = match self {
            Self::Day => i64::from(now.day()) + 1,
            Self::Month => Month::of_day(now.day()).next().first_day().into(),
        };
        let millis = next.saturating_mul(DAY_MS).saturating_sub(now.unix_ms);
        Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }

    /// The name of its limit in the configuration.
    pub fn limit_name(self) -> &'static str {
        match self {
            Self::Day => "tokens_per_day",
            Self::Month => "tokens_per_month",
        }
    }
}

/// Days from 0000-03-01 to 1970-01-01. Years that begin in March end with the leap day.
const TO_1970: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats itself.
const ERA: i64 = 146_097;

/// A month, counted from January 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub i32);

impl Month {
    /// The month of a day; days are counted from 1970-01-01.
    pub fn of_day(day: i32) -> Self {
        let day = i64::from(day) + TO_1970;
        let (era, day) = (day.div_euclid(ERA), day.rem_euclid(ERA));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // From March, in turns of 31 30 31 30 31 days.
        let month = (5 * day + 2) / 153;
        Self(i32::try_from(12 * (400 * era + year) + month + 2 - 12 * 1970).unwrap_or(i32::MAX))
    }

    /// The first day of it.
    pub fn first_day(self) -> i32 {
        let months = i64::from(self.0) + 12 * 1970 - 2;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12));
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = era * ERA + 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5;
        i32::try_from(day - TO_1970).unwrap_or(if self.0 < 0 { i32::MIN } else { i32::MAX })
    }

    /// The month after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64, ms: i64) -> Moment {
        Moment { uptime: Duration::ZERO, unix_ms: days * DAY_MS + ms }
    }

    #[test]
    fn a_stretch_has_the_days_that_are_in_it() {
        for (day, first, last) in [(20_784, 20_758, 20_787), (21_243, 21_215, 21_243)] {
            assert_eq!(Calendar::Month.days(Calendar::Month.of_day(day)), (first, last));
            assert_eq!(Calendar::Day.days(day), (day, day));
        }
    }

    #[test]
    fn a_month_ends_with_its_last_millisecond_in_leap_years_too() {
        // The last of February in 2027, 2028 and 2100, and of December 2026.
        for last_day in [20_877, 21_243, 47_540, 20_818] {
            let (last, first) = (at(last_day, DAY_MS - 1), at(last_day + 1, 0));
            assert_eq!(Calendar::Month.until_next(last), Duration::from_millis(1), "{last_day}");
            assert_eq!(Calendar::Month.of(first), Calendar::Month.of(last) + 1, "{last_day}");
        }
        // The day before the last of February 2028 is not the end.
        assert_eq!(Calendar::Month.of(at(21_242, 0)), Calendar::Month.of(at(21_243, 0)));
        assert_eq!(Calendar::Day.until_next(at(20_784, 1)), Duration::from_millis(86_399_999));
    }

    fn days(year: i32, month: i32) -> i32 {
        let month = Month(12 * (year - 1970) + month - 1);
        month.next().first_day() - month.first_day()
    }

    #[test]
    fn months_have_their_days_in_leap_years_and_others() {
        let of_year = |year| (1..=12).map(|month| days(year, month)).collect::<Vec<_>>();
        let common = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for year in [1970, 1900, 2100, 2026, 2027] {
            assert_eq!(of_year(year), common, "{year}");
        }
        for year in [1972, 2000, 2028, 2400] {
            assert_eq!(days(year, 2), 29, "{year}");
        }
        assert_eq!(Month(0).first_day(), 0);
        // 2026-11-27 and 2028-02-29.
        assert_eq!((Month::of_day(20_784), Month::of_day(21_243)), (Month(12 * 56 + 10), Month(12 * 58 + 1)));
    }

    #[test]
    fn every_day_of_eight_hundred_years_is_in_the_month_that_begins_before_it() {
        for day in -146_097..146_097 {
            let month = Month::of_day(day);
            assert!((month.first_day()..month.next().first_day()).contains(&day), "{day}");
        }
    }

    #[test]
    fn no_day_is_too_far_away() {
        for day in [i32::MIN, i32::MAX] {
            assert!(Month::of_day(day).first_day() <= day);
        }
    }
}
