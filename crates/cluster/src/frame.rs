//! What do gateways say to each other? The scheduler's own words, with nodes and models by name, and times as durations:
//! neither indexes nor clocks of two processes agree.

use std::{sync::Arc, time::Duration};

use scheduler::{Arrival, Failure, Outcome, Pace, Prefix, Refusal, RequestId, Route};
use serde::{Deserialize, Serialize};

/// One message on a link.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// Follower to leader, before anything else: every live request of this gateway. What is not in it is over.
    Report {
        /// The oldest first.
        requests: Vec<Reported>,
        /// Whether it was silent for so long that some of what it takes for running may have ended, and its slot may be
        /// somebody else's.
        #[serde(default)]
        has_lapsed: bool,
        /// Slots that it holds and nothing runs on. From now on they are the leader's.
        #[serde(default)]
        free: Vec<FreeSlots>,
    },
    /// Follower to leader: a request arrived.
    Arrived {
        /// The request.
        request: Travelling,
        /// How much longer it may wait.
        patience: Duration,
    },
    /// Follower to leader: a model is about to be asked for.
    Wanted {
        /// As the client named it.
        model: String,
    },
    /// Follower to leader: the first byte is here; may the client have it?
    FirstByte {
        /// The request.
        id: RequestId,
        /// Its attempt.
        attempt: u32,
    },
    /// Follower to leader: tokens of the answer so far.
    Progress {
        /// The request.
        id: RequestId,
        /// All of its tokens.
        tokens: u64,
    },
    /// Follower to leader: how long the node says that it worked on the request.
    Worked {
        /// The request.
        id: RequestId,
        /// That time.
        time: Duration,
        /// The part of it in which the node wrote the answer, if it says so.
        writing: Option<Duration>,
    },
    /// Follower to leader: the client of a stream is not reading.
    Stalled {
        /// The request.
        id: RequestId,
    },
    /// Follower to leader: an attempt failed before its first byte.
    Failed {
        /// The request.
        id: RequestId,
        /// Its attempt.
        attempt: u32,
        /// How it failed.
        failure: Failure,
    },
    /// Follower to leader: a request is over.
    Left {
        /// The request.
        id: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Leader to follower: send the request to this node.
    Grant {
        /// The request.
        id: RequestId,
        /// The node's name.
        node: String,
        /// Starts at 1.
        attempt: u32,
        /// How long it should take, with a margin.
        #[serde(default)]
        takes: Duration,
        /// What its client may be told.
        #[serde(default)]
        foreseen: Foreseen,
    },
    /// Leader to follower: refuse the client.
    Refuse {
        /// The request.
        id: RequestId,
        /// The reason.
        refusal: Refusal,
    },
    /// Leader to follower: break the running attempt off.
    Abandon {
        /// The request.
        id: RequestId,
    },
    /// Leader to follower: whether the client may have the first byte.
    Began {
        /// The request.
        id: RequestId,
        /// Its attempt.
        attempt: u32,
        /// If false, the leader has broken the attempt off.
        goes_on: bool,
    },
    /// Both ways: the sender is alive.
    Heartbeat,
    /// Both ways: the same, to be answered at once.
    Ping {
        /// Comes back in the answer.
        number: u64,
    },
    /// Both ways: the answer.
    Pong {
        /// That of the question.
        number: u64,
    },
}

/// Free slots of a model on a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FreeSlots {
    /// The node's name.
    pub node: String,
    /// A name of the model.
    pub model: String,
    /// How many.
    pub slots: u32,
}

/// What a scheduler foresaw for a request that it has granted a slot.
#[derive(Copy, Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Foreseen {
    /// How many requests waited when it arrived.
    pub ahead: Option<usize>,
    /// Seconds from its arrival to its first token.
    pub expected: Option<f64>,
    /// How fast the attempt is.
    pub pace: Option<Pace>,
    /// How fast it is at least, if that is certain.
    pub certain_pace: Option<Pace>,
}

/// A request, as it travels to the leader.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Travelling {
    /// Its id, the same at all gateways.
    pub id: RequestId,
    /// The user whose lane it joins.
    pub user: String,
    /// The user's weight.
    pub weight: f64,
    /// The user's group and its weight.
    pub group: Option<(String, f64)>,
    /// The model as the client named it.
    pub model: String,
    /// Estimated tokens of the prompt.
    pub prompt_tokens: u64,
    /// The most tokens the answer may have.
    pub max_output: Option<u64>,
    /// How many it will have, if that is known.
    pub known_output: Option<u64>,
    /// Beginnings of its prompt. Digests of different gateways never match, as each process has its own seed.
    pub prefixes: Vec<Prefix>,
    /// The route it came in by.
    pub route: Route,
    /// Whether the answer is streamed.
    pub is_stream: bool,
}

impl From<&Arrival> for Travelling {
    fn from(arrival: &Arrival) -> Self {
        Self {
            id: arrival.id,
            user: arrival.user.to_string(),
            weight: arrival.weight,
            group: arrival.membership.as_ref().map(|group| (group.group.to_string(), group.weight)),
            model: arrival.model.to_string(),
            prompt_tokens: arrival.prompt_tokens,
            max_output: arrival.max_output,
            known_output: arrival.known_output,
            prefixes: arrival.prefixes.to_vec(),
            route: arrival.route,
            is_stream: arrival.is_stream,
        }
    }
}

impl Travelling {
    /// The request with its deadline by the reader's own clock.
    pub fn arrival(self, deadline: Duration) -> Arrival {
        Arrival {
            id: self.id,
            user: self.user.into(),
            weight: self.weight,
            membership: self.group.map(|(group, weight)| scheduler::Membership { group: group.into(), weight }),
            model: self.model.into(),
            prompt_tokens: self.prompt_tokens,
            max_output: self.max_output,
            known_output: self.known_output,
            prefixes: Arc::from(self.prefixes),
            route: self.route,
            is_stream: self.is_stream,
            deadline,
        }
    }
}

/// A live request, as its gateway reports it to a leader.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reported {
    /// The request.
    pub request: Travelling,
    /// How long ago it arrived.
    pub waited: Duration,
    /// How much longer it may wait.
    pub patience: Duration,
    /// Attempts so far, including the running one.
    pub attempts: u32,
    /// The running attempt; `None` if it waits.
    pub attempt: Option<ReportedAttempt>,
}

/// A running attempt, as its gateway reports it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReportedAttempt {
    /// The node's name.
    pub node: String,
    /// How long ago it was sent.
    pub sent_ago: Duration,
    /// How long ago its first byte came; `None` before that.
    pub began_ago: Option<Duration>,
    /// Tokens so far.
    pub tokens: u64,
}
