//! What happens, as it happens: the stream of events that operators watch.
mod feed;
mod picture;
mod shapes;

pub use feed::EventFeed;
pub use shapes::{ChangeRecord, EndRecord, LiveFleet, LiveModel, LiveNode, LiveRequests, LiveSnapshot};
