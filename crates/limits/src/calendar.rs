//! Over which stretch of the calendar do tokens count: a day or a month, in UTC?
use std::time::Duration;

use super::moment::Moment;
use super::month::Month;

const DAY_MS: i64 = 86_400_000;

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
}
