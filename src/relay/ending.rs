//! How do metrics, traces and the log report the end of a request?
use crate::store::{Status, UsageRow};
use crate::trace::{Attribute, Closing};

/// The `outcome` label of metrics.
pub(super) fn outcome(status: Status, code: u16) -> &'static str {
    match (status, code) {
        (Status::Completed, _) => "ok",
        (Status::Cancelled, _) => "client_cancelled",
        (Status::Deadline, _) => "timeout",
        (Status::Refused, 429) => "rate_limited",
        (Status::Refused, 400..=498) => "client_error",
        (Status::Refused, _) => "overloaded",
        (Status::UpstreamError | Status::Interrupted, _) => "upstream_error",
    }
}

/// The closing fields of a request's own span.
pub(super) fn closing(row: &UsageRow, code: u16, status: Status) -> Closing<'_> {
    let text = |text: &str| Attribute::Text(text.to_owned());
    let is_failure = matches!(status, Status::UpstreamError | Status::Deadline | Status::Interrupted) || code >= 500;
    let attributes = vec![
        ("gen_ai.request.model", text(&row.model)),
        ("gen_ai.usage.input_tokens", Attribute::Number(row.prompt_tokens)),
        ("gen_ai.usage.output_tokens", Attribute::Number(row.completion_tokens)),
        ("gateway.request_id", text(&row.request_id.to_string())),
        ("gateway.user", text(row.user_name())),
        ("gateway.status", text(&row.status)),
        ("gateway.attempts", Attribute::Number(row.attempts.into())),
        ("gateway.stream", Attribute::Flag(row.stream)),
    ];
    Closing { route: &row.endpoint, code, is_failure, attributes }
}

/// Writes the one log line of a request.
pub(super) fn log(row: &UsageRow, code: u16, trace_id: Option<&str>) {
    tracing::info!(
        request_id = %row.request_id,
        trace_id,
        user = row.user_name(),
        endpoint = %row.endpoint,
        model = %row.model,
        node = row.node.as_deref().unwrap_or("-"),
        stream = row.stream,
        status = %row.status,
        code,
        error = row.reason.code.as_deref(),
        limit = row.reason.limit.as_deref(),
        attempts = row.attempts,
        prompt_tokens = row.prompt_tokens,
        completion_tokens = row.completion_tokens,
        queue_ms = row.queue_ms,
        time_to_first_token_ms = row.time_to_first_token_ms,
        duration_ms = row.duration_ms,
        "request ended"
    );
}
