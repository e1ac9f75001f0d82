//! What does a client see whose request was accepted and got no answer?
use std::time::Duration;

use super::{ApiError, printable};
use crate::http::error_kind;
use crate::http::maintenance::in_words;
use crate::http::over::seconds;
use crate::relay::WhyNot;
use crate::store::{Maintenance, Status};
use scheduler::{Failure, Refusal, RefusalReason};

impl ApiError {
    /// The error for a request that got no answer, and the status of its usage row.
    pub fn not_carried(why: &WhyNot, model: &str) -> (Self, Status) {
        match why {
            WhyNot::Stopping => (Self::stopping(), Status::Interrupted),
            WhyNot::Unrecorded => (Self::not_stored(), Status::Refused),
            WhyNot::Revoked => (Self::unauthorized("This API key was revoked."), Status::Cancelled),
            WhyNot::Stopped(stopped) => {
                let error = Self::new(&error_kind::STOPPED, stopped.message());
                (error.with(|words| words.hopeless = true), Status::Cancelled)
            }
            WhyNot::Indicted(left) => (Self::indicted(*left), Status::Refused),
            WhyNot::TooLong => {
                let message = "The request took longer than this service allows.";
                (Self::new(&error_kind::TIMEOUT, message), Status::Deadline)
            }
            WhyNot::Maintenance { maintenance, retry_after } => {
                (Self::maintained(model, maintenance, *retry_after), Status::Refused)
            }
            WhyNot::Refused { refusal, detail } => Self::refused(*refusal, detail.as_deref(), model),
        }
    }

    /// 422: the request makes nodes fail that answer other requests.
    fn indicted(left: Duration) -> Self {
        let message = format!(
            "This request made nodes fail, again and again, while they answered other requests. It is not tried again for \
             {}: change it before you send it again.",
            seconds(left)
        );
        Self::new(&error_kind::MAKES_NODES_FAIL, message).with(|words| words.hopeless = true)
    }

    fn refused(refusal: Refusal, detail: Option<&str>, model: &str) -> (Self, Status) {
        let after = refusal.retry_after;
        let again = format!("Please try again in {}.", seconds(after));
        match refusal.reason {
            RefusalReason::UserQueueFull => {
                let message = format!("You have as many requests waiting as one user may have. {again}");
                let error = Self::new(&error_kind::RATE_LIMITED, message).of_limit("queue.max_queued_per_user");
                (error.with(|words| words.retry_after = Some(after)), Status::Refused)
            }
            RefusalReason::QueueFull => {
                let message = format!("The service is overloaded: its queue is full. {again}");
                let error = Self::unavailable(&error_kind::OVERLOADED, message, after);
                (error.of_limit("queue.max_queued"), Status::Refused)
            }
            RefusalReason::DeadlinePassed => {
                let message = format!("The service is overloaded: no slot became free in time. {again}");
                (Self::unavailable(&error_kind::OVERLOADED, message, after), Status::Deadline)
            }
            // No node can be at fault, as none was there.
            RefusalReason::NoNode => (Self::no_node(model, after), Status::Refused),
            RefusalReason::NoRoute => (Self::no_route(model), Status::Refused),
            RefusalReason::NotLoaded { last } => {
                let message = format!("No node could load the model `{model}`; the last one {last}. {again}");
                let error = Self::exhausted(last, message, model, after);
                (error.with(|words| words.retry_after = Some(after)), Status::UpstreamError)
            }
            RefusalReason::Exhausted { last: Failure::Unsupported } => (Self::no_route(model), Status::Refused),
            RefusalReason::Exhausted { last } => {
                let message =
                    format!("No node could answer; the last one {last} ({}).", detail.unwrap_or("no details"));
                (Self::exhausted(last, message, model, after), Status::UpstreamError)
            }
        }
    }

    fn exhausted(last: Failure, message: String, model: &str, after: Duration) -> Self {
        match last {
            Failure::Missing => Self::unknown_model(model),
            Failure::Busy | Failure::Starved => Self::unavailable(&error_kind::OVERLOADED, message, after),
            Failure::TimedOut | Failure::Stuck => Self::new(&error_kind::TIMEOUT, message),
            _ => Self::new(&error_kind::UPSTREAM, message),
        }
    }

    /// 503: every node that has this model is drained.
    fn maintained(model: &str, maintenance: &Maintenance, retry_after: Duration) -> Self {
        let (state, again) = (in_words(maintenance), seconds(retry_after));
        let message = format!("Every node that has `{}` is {state}. Please try again in {again}.", printable(model));
        Self::unavailable(&error_kind::MAINTENANCE, message, retry_after)
    }
}
