//! Which users have metrics of their own, if the operator wants any? A label with a capped number of values.
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{Error, IntCounterVec, Registry};
use serde::{Deserialize, Serialize};

use super::declare::Declare;

/// The label for all users beyond the cap.
const OTHERS: &str = "_other";

/// Whether users are told apart in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserLabel {
    /// No metrics by user.
    Off,
    /// By name, up to the cap.
    All,
}

#[derive(Debug)]
pub(super) struct UserLabelSet {
    cap: usize,
    tokens: IntCounterVec,
    requests: IntCounterVec,
    /// Users with a label of their own: the first ones seen.
    named: Mutex<BTreeSet<String>>,
}

impl UserLabelSet {
    pub(super) fn declare(registry: &Registry, cap: usize) -> Result<Self, Error> {
        let declare = Declare(registry);
        let users = Self {
            cap,
            tokens: declare.counters(
                "user_tokens_total",
                "Tokens recorded in usage rows, by user.",
                &["user", "type"],
            )?,
            requests: declare.counters(
                "user_requests_total",
                "Requests for existing models, by user and class of status.",
                &["user", "code_class"],
            )?,
            named: Mutex::default(),
        };
        users.begin(OTHERS);
        Ok(users)
    }

    /// A user exists: its series begin at 0.
    pub(super) fn meet(&self, user: &str) {
        let label = self.label(user);
        self.begin(label);
    }

    pub(super) fn ended(&self, user: &str, code: u16, prompt: u64, completion: u64) {
        let label = self.label(user);
        let class = match code {
            0..400 => "2xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.with_label_values(&[label, class]).inc();
        self.tokens.with_label_values(&[label, "input"]).inc_by(prompt);
        self.tokens.with_label_values(&[label, "output"]).inc_by(completion);
    }

    fn label<'a>(&self, user: &'a str) -> &'a str {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(user) {
            return user;
        }
        if named.len() >= self.cap {
            return OTHERS;
        }
        named.insert(user.to_owned());
        user
    }

    fn begin(&self, label: &str) {
        for class in ["2xx", "4xx", "5xx"] {
            self.requests.with_label_values(&[label, class]);
        }
        for kind in ["input", "output"] {
            self.tokens.with_label_values(&[label, kind]);
        }
    }
}
