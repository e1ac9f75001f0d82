//! Where do requests meet the scheduler? The shell around the pure core, its tickets, and the errands it issues.
mod dispatcher;
mod errand;
mod links;
mod peers;
mod sharer;
mod sharing;
mod sight;
mod ticket;
mod word;

pub use self::errand::LoadCost;
pub(crate) use self::links::Asking;
pub use dispatcher::Dispatcher;
pub use errand::Errand;
pub use sharer::Sharer;
pub use sharing::Sharing;
pub use sight::{Question, Scope, Sight};
pub use ticket::Ticket;
pub use word::{Grant, Interruption};
