//! How much may a user, or one key, use? Pure: a budget, a need and a moment go in; a reservation or a refusal comes
//! out.
//!
//! * **Requests per minute** is an exact sliding log: at most N admissions in any 60 s, on the monotonic clock.
//! * **Tokens per minute** (prompt and completion) count at the moment their request was admitted: the requests
//!   admitted in any 60 s use at most N tokens together. Admissions within the same tenth of a second leave the window
//!   together, at the time of the last one.
//! * **Tokens per day** (UTC) count towards the day of the admission; a request that ends after midnight takes nothing
//!   from the new day.
//! * **Concurrency** counts requests from admission to end.
//!
//! Tokens are reserved before a request is dispatched and settled when it ends, so `settled + reserved <= limit` holds
//! at every admission, however many requests race. A user's budget and a key's are asked together: both admit, or
//! neither.
//!
//! Sums saturate, so no count can make one wrap around.
//!
//! Invariant: every [`Reservation`] is given back exactly once, to [`Budget::settle`] or to [`Budget::cancel`].
mod amounts;
mod budget;
mod calendar;
mod exceeded;
mod headroom;
mod ledger;
mod limit;
mod minute;
#[cfg(test)]
mod properties;
mod share;
#[cfg(test)]
mod sharing;

pub use crate::amounts::{Allowance, Need};
pub use crate::calendar::{Moment, Month};
pub use crate::limit::DefaultLimits;
pub use amounts::Amounts;
pub use budget::{Budget, PriorUse, Reservation};
pub use calendar::Calendar;
pub use exceeded::Exceeded;
pub use headroom::{Balance, Headroom, Remaining};
pub use ledger::Ledger;
pub use limit::Limits;
pub use share::{Claim, Elsewhere, Holding, Most, Peer, longest_gap, trade, wish};
