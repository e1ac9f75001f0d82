//! What is a gateway's part in scheduling at the moment, and what must its shell do?

use std::sync::Arc;

use scheduler::{Decision, RequestId, Time};

use crate::frame::Frame;

/// A gateway's part in scheduling.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum Role {
    /// It schedules its own requests, with the slots that it has been given.
    Local,
    /// It wants to follow or to lead. Until then it schedules its own requests, with the slots that it holds.
    Seeking {
        /// Since when.
        since: Time,
    },
    /// It schedules for all gateways.
    Leading {
        /// The epoch of its lease. Each holder's is larger than the one before.
        epoch: u64,
    },
    /// Another gateway schedules its requests.
    Following {
        /// The epoch of the leader's lease.
        epoch: u64,
        /// The leader's name.
        leader: Arc<str>,
    },
}

impl Role {
    /// Every role's label.
    pub const LABELS: [&str; 4] = ["local", "seeking", "leading", "following"];

    /// One word for it, for metrics and operators.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Seeking { .. } => "seeking",
            Self::Leading { .. } => "leading",
            Self::Following { .. } => "following",
        }
    }
}

/// Another gateway on the same database.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Neighbour {
    /// Its name.
    pub gateway: Arc<str>,
    /// Where its link listens.
    pub address: Arc<str>,
    /// How long ago it last told the database that it is alive.
    pub silent: Time,
    /// How much longer what it ran then should take, from now on.
    pub busy: Time,
}

/// A gateway that holds the lease.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct Candidate {
    /// Its name.
    pub gateway: Arc<str>,
    /// Where its link listens.
    pub address: Arc<str>,
    /// The epoch of its lease.
    pub epoch: u64,
}

/// What the database said about the lease.
#[derive(Clone, Eq, PartialEq, Debug)]
pub enum LeaseNews {
    /// This gateway holds it.
    Held {
        /// Its epoch.
        epoch: u64,
        /// Until when this gateway may decide, by its own clock.
        until: Time,
    },
    /// Another gateway holds it.
    Taken(Candidate),
    /// Nobody holds it, and this gateway did not ask for it.
    Free,
    /// The database did not answer.
    Away,
}

/// What the shell must do.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Carry out a decision about one of this gateway's requests, or about a node.
    Decided(Decision),
    /// The leader has answered whether the client may have the first byte.
    Began {
        /// The request.
        id: RequestId,
        /// Its attempt.
        attempt: u32,
        /// If false, the attempt is over, and the request waits again.
        goes_on: bool,
    },
    /// Send a frame on the link with this gateway.
    Say {
        /// The other gateway.
        gateway: Arc<str>,
        /// The frame.
        frame: Frame,
    },
    /// Close the link with this gateway.
    Close {
        /// The other gateway.
        gateway: Arc<str>,
    },
}

/// Whether the client may have the first byte of an attempt.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum FirstByte {
    /// It may.
    GoesOn,
    /// The attempt was broken off.
    Over,
    /// The leader was asked; [`Effect::Began`] brings the answer.
    Asked,
}
