//! Which calendar month is it, and on which days does it begin and end? In UTC, by the Gregorian calendar.

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
