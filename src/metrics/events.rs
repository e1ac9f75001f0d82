//! What happens to requests and nodes, and which families does it change? A method for each event.
use std::sync::PoisonError;
use std::time::Duration;

use super::Metrics;

/// How a request ended, for the `outcome` label.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The route's template.
    pub route: &'a str,
    /// A listed model, or [`UNKNOWN_MODEL`].
    pub model: &'a str,
    /// Whether it was streamed.
    pub stream: bool,
    /// The status code that the client saw; 499 if it left before that.
    pub code: u16,
    /// `ok`, `client_error`, `rate_limited`, `upstream_error`, `timeout`, `client_cancelled` or `overloaded`.
    pub outcome: &'a str,
    /// From arrival to end.
    pub duration: Duration,
}

impl Metrics {
    /// A request was parsed. Pair it with [`Metrics::left`].
    pub fn entered(&self, route: &'static str, model: &str) {
        let model = self.label(model);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let models = begun.entry(route).or_default();
        if !models.contains(model) {
            // So that the first failure on a rarely used route shows as an increase too.
            models.insert(model.to_owned());
            self.begin_ends(route, model);
        }
        drop(begun);
        self.families.requests.in_flight.with_label_values(&[route]).inc();
    }

    /// A request that had [entered](Metrics::entered) ended.
    pub fn left(&self, route: &str) {
        self.families.requests.in_flight.with_label_values(&[route]).dec();
    }

    /// A request ended, admitted or not.
    pub fn ended(&self, ended: Ended<'_>) {
        let (code, model) = (ended.code.to_string(), self.label(ended.model));
        self.families.requests.ended.with_label_values(&[ended.route, model, &code, ended.outcome]).inc();
        let stream = if ended.stream { "true" } else { "false" };
        let duration = self.families.requests.duration.with_label_values(&[ended.route, model, stream]);
        duration.observe(ended.duration.as_secs_f64());
    }

    /// A user's request ended, with its tokens.
    pub fn user_ended(&self, user: &str, code: u16, prompt: u64, completion: u64) {
        if let Some(users) = &self.users {
            users.ended(user, code, prompt, completion);
        }
    }

    /// A node's first byte came.
    pub fn first_token(&self, model: &str, after: Duration) {
        self.families.requests.first_token.with_label_values(&[self.label(model)]).observe(after.as_secs_f64());
    }

    /// A complete stream ended: `tokens` in all, over `after_first`.
    pub fn decoded(&self, model: &str, tokens: u64, after_first: Duration) {
        if tokens > 1 {
            let per_token = after_first.as_secs_f64() / (tokens - 1) as f64;
            self.families.requests.per_token.with_label_values(&[self.label(model)]).observe(per_token);
        }
    }

    /// The gateway's own work on a request: `auth`, `route`, `forward` or `record`.
    pub fn overhead(&self, stage: &str, spent: Duration) {
        self.families.requests.overhead.with_label_values(&[stage]).observe(spent.as_secs_f64());
    }

    /// Tokens were recorded in usage.
    pub fn tokens(&self, model: &str, prompt: u64, completion: u64) {
        let model = self.label(model);
        self.families.requests.tokens.with_label_values(&[model, "input"]).inc_by(prompt);
        self.families.requests.tokens.with_label_values(&[model, "output"]).inc_by(completion);
    }

    /// The configuration was read; `is_good` if it had no mistake.
    pub fn config_loaded(&self, is_good: bool, at_unix_ms: i64) {
        self.families.setup.config_good.set(f64::from(u8::from(is_good)));
        if is_good {
            self.families.setup.config_loaded_at.set(at_unix_ms as f64 / 1e3);
        }
    }

    /// The certificate that clients are served ends at this time, in seconds since 1970.
    pub fn certificate_expires(&self, unix_seconds: i64) {
        self.families.setup.certificate_expiry.with_label_values::<&str>(&[]).set(unix_seconds as f64);
    }

    /// Daily sums of usage were compared with the rows; this many differed.
    pub fn rollups_compared(&self, wrong: u64) {
        self.families.storage.rollup_mismatches.set(wrong as f64);
    }

    /// A limit of a user or key refused a request; `limit` is its name in the configuration.
    pub fn rate_limited(&self, limit: &str) {
        self.families.requests.rate_limited.with_label_values(&[limit]).inc();
    }

    /// A node reported more or fewer tokens than are possible for the request.
    pub fn claim_corrected(&self, node: &str) {
        self.families.attempts.claims_corrected.with_label_values(&[node]).inc();
    }

    /// A client's SDK marked the request as a retry.
    pub fn client_retried(&self) {
        self.families.requests.client_retries.inc();
    }

    /// A request got a slot.
    pub fn waited(&self, model: &str, wait: Duration) {
        self.families.queue.wait.with_label_values(&[self.label(model)]).observe(wait.as_secs_f64());
    }

    /// A request got no answer from any node.
    pub fn queue_rejected(&self, reason: &str) {
        self.families.queue.rejected.with_label_values(&[reason]).inc();
    }

    /// An attempt ended; `outcome` is `ok`, `client_error`, `cancelled` or a failure's name.
    pub fn attempt(&self, node: &str, outcome: &str, duration: Duration) {
        self.families.attempts.ended.with_label_values(&[node, outcome]).inc();
        self.families.attempts.duration.with_label_values(&[node]).observe(duration.as_secs_f64());
    }

    /// Another attempt follows one that failed in this way.
    pub fn retried(&self, failure: &str) {
        self.families.attempts.retries.with_label_values(&[failure]).inc();
    }

    /// A load that the gateway ordered ended.
    pub fn loaded(&self, node: &str, duration: Duration) {
        self.families.attempts.model_load.with_label_values(&[node]).observe(duration.as_secs_f64());
    }

    /// This many entries of a node's list could not be used.
    pub fn listing_skipped(&self, node: &str, entries: u64) {
        self.families.nodes.listing_skipped.with_label_values(&[node]).inc_by(entries);
    }

    /// A request of the gateway's own showed whether a node works again.
    pub fn canary_ended(&self, node: &str, outcome: &str) {
        self.families.nodes.canaries.with_label_values(&[node, outcome]).inc();
    }

    /// A node was probed.
    pub fn probed(&self, node: &str, duration: Duration, at_unix_ms: i64) {
        self.families.nodes.probe_duration.with_label_values(&[node]).observe(duration.as_secs_f64());
        self.families.nodes.probed_at.with_label_values(&[node]).set(at_unix_ms as f64 / 1e3);
    }
}
