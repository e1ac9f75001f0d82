//! How does one request get its answer? From the queue to a node and back, with everything accounted for at the end.
//!
//! [`Relay::carry`] is the path: wait for a slot, ask the node, and pass on its answer, either plain or as a
//! [`WatchedBody`]. The [`Meter`] goes along from admission to the end and settles exactly once, even if the client
//! leaves and the future is dropped.
mod account;
mod answer;
mod carry;
mod case;
mod ending;
mod job;
mod meter;
mod metered;
mod open_requests;
mod prefixes;
mod settings;
mod suspects;
mod watched;
mod work;

pub use account::Admission;
pub use answer::{Answer, CarryError, Content, Served, WhyNot};
pub use carry::Relay;
pub use job::Job;
pub use meter::{Meter, Meters};
pub use open_requests::{OpenRequest, OpenRequests, Stage, Stopped, StoppedBy};
pub use prefixes::prefixes;
pub use settings::RelaySettings;
pub use watched::WatchedBody;
