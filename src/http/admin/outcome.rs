//! What became of a request, in plain words? From its usage row, so that it can be told for as long as the row is kept.
use crate::store::UsageRow;

/// A request that waited for less than this went to its node at once.
const AT_ONCE_MS: u64 = 50;

/// How a request fared. `other` says what else was weighed up, if that is known.
pub(super) fn in_words(row: &UsageRow, other: Option<&str>) -> String {
    let others = match row.requests {
        0 | 1 => String::new(),
        all => format!(" {} more requests of that minute ended alike and share its row.", all - 1),
    };
    format!("{}{}.{others}", way(row, other), end(row))
}

/// Where it went, and after how long.
fn way(row: &UsageRow, other: Option<&str>) -> String {
    let waited = (row.queue_ms >= AT_ONCE_MS).then(|| seconds(row.queue_ms));
    let way = match (&row.node, waited) {
        (None, None) => return String::new(),
        (None, Some(waited)) => format!("It waited {waited} for a slot"),
        (Some(node), None) => format!("It went to {node} at once"),
        (Some(node), Some(waited)) => format!("It waited {waited} for a slot on {node}"),
    };
    let other = other.map(|other| format!("; {other}")).unwrap_or_default();
    let failed = match row.attempts {
        0 | 1 => String::new(),
        2 => " Before that, 1 attempt failed.".to_owned(),
        attempts => format!(" Before that, {} attempts failed.", attempts - 1),
    };
    format!("{way}{other}.{failed} ")
}

fn seconds(millis: u64) -> String {
    format!("{:.1} s", millis as f64 / 1000.0)
}

/// How it ended.
fn end(row: &UsageRow) -> String {
    let code = row.reason.code.as_deref();
    match (&*row.status, row.reason.limit.as_deref()) {
        ("completed", _) => format!("It was answered whole, after {}", seconds(row.duration_ms)),
        ("refused", Some(limit)) => format!("It was refused: {}", exceeded(limit, code)),
        ("refused", None) => format!("It was refused: {}", known(code)),
        ("cancelled", _) => match code {
            Some("client_cancelled") => "Its client left before the end".to_owned(),
            Some("invalid_api_key") => "It was ended, as its key was revoked".to_owned(),
            Some("request_stopped") => "It was stopped by an operator, or with a key of its user".to_owned(),
            code => format!("It was ended: {}", known(code)),
        },
        ("deadline", _) if code == Some("server_is_overloaded") => "No slot became free in time".to_owned(),
        ("deadline", _) => format!("It was broken off after {}, as it took too long", seconds(row.duration_ms)),
        ("interrupted", _) => "The gateway stopped before its end".to_owned(),
        ("upstream_error", _) => match &row.node {
            Some(node) => format!("It failed on {node}: {}", known(code)),
            None => format!("It failed: {}", known(code)),
        },
        (status, _) => format!("It ended as {status}: {}", known(code)),
    }
}

/// What a limit had no room for.
fn exceeded(limit: &str, code: Option<&str>) -> String {
    let (whose, of) = match limit.split_once('.') {
        Some(("queue" | "server", _)) | None => ("its user", limit),
        Some((owner @ ("key" | "group"), of)) => (if owner == "key" { "its key" } else { "the group of its user" }, of),
        Some(_) => return format!("{limit} was reached"),
    };
    match of {
        "requests_per_minute" => format!("{whose} had used up the requests of a minute"),
        "tokens_per_minute" if code == Some("insufficient_quota") => {
            format!("it needs more tokens than {whose} may use in a minute")
        }
        "tokens_per_minute" => format!("{whose} had too few tokens left in that minute"),
        "tokens_per_day" => format!("{whose} had too few tokens left on that day"),
        "tokens_per_month" => format!("{whose} had too few tokens left in that month"),
        "max_concurrency" => format!("{whose} had as many requests running or waiting as allowed"),
        "queue.max_queued_per_user" => "its user had as many requests waiting as allowed".to_owned(),
        "queue.max_queued" => "the queue was full".to_owned(),
        "server.body_memory_bytes" => "there was no memory for its body".to_owned(),
        _ => format!("{limit} was reached"),
    }
}

fn known(code: Option<&str>) -> &str {
    match code {
        None => "no reason was noted",
        Some(code) => explained(code).unwrap_or(code),
    }
}

/// What a code means for the request that ended with it.
fn explained(code: &str) -> Option<&'static str> {
    Some(match code {
        "node_refused" => "the node said that the request is at fault",
        "node_maintenance" => "every node that has its model was under maintenance",
        "no_node_available" => "no node that has its model was up",
        "model_not_found" => "no node has its model any more",
        "unsupported_endpoint" => "no node that has its model offers its route",
        "request_makes_nodes_fail" => "it made nodes fail while they answered other requests",
        "request_too_large" => "its body is larger than allowed",
        "request_timeout" => "its body did not arrive in time",
        "unsupported_encoding" => "its body is in a coding that is not supported",
        "rate_limit_exceeded" => "a limit was reached",
        "insufficient_quota" => "a quota was used up",
        "server_is_overloaded" => "every node was busy",
        "storage_unavailable" => "its usage could not be stored",
        "limits_unavailable" => "its limits are shared with gateways that could not be asked",
        "server_shutting_down" => "the gateway stopped",
        "upstream_error" => "the node gave no whole answer",
        "timeout" => "the node did not answer in time",
        "internal_error" => "the gateway made a mistake",
        "request_stopped" => "an operator stopped it, or somebody with a key of its user",
        "invalid_api_key" => "its key was revoked",
        "user_suspended" => "its user was suspended",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::error_kind;
    use crate::store::Reason;

    /// Codes of errors that leave no row: the request was not understood, not let in, or none for a model.
    const WITHOUT_ROW: [&str; 6] =
        ["not_allowed", "model_not_allowed", "not_found", "method_not_allowed", "already_exists", "not_changeable"];

    fn row(status: &'static str, code: Option<&'static str>, limit: Option<&'static str>) -> UsageRow {
        UsageRow {
            request_id: uuid::Uuid::nil(),
            user: "ann".into(),
            key: None,
            created_at_ms: 0,
            day: 0,
            model: "m".to_owned(),
            endpoint: "/v1/chat/completions".into(),
            node: None,
            stream: false,
            status: status.into(),
            prompt_tokens: 10,
            completion_tokens: 1,
            tokens_from: "reported".into(),
            attempts: 0,
            queue_ms: 0,
            time_to_first_token_ms: None,
            duration_ms: 1234,
            load_ms: None,
            prefill_ms: None,
            decode_ms: None,
            reason: Reason::new(code, limit),
            http_status: None,
            requests: 1,
            group: None,
        }
    }

    fn sent(node: &str, queue_ms: u64, attempts: u32, row: UsageRow) -> UsageRow {
        UsageRow { node: Some(node.to_owned()), queue_ms, attempts, ..row }
    }

    #[test]
    fn each_refusal_has_a_plain_sentence() {
        let limited = |limit| row("refused", Some("rate_limit_exceeded"), Some(limit));
        for (row, said) in [
            (limited("requests_per_minute"), "It was refused: its user had used up the requests of a minute."),
            (limited("tokens_per_minute"), "It was refused: its user had too few tokens left in that minute."),
            (
                row("refused", Some("insufficient_quota"), Some("tokens_per_minute")),
                "It was refused: it needs more tokens than its user may use in a minute.",
            ),
            (limited("tokens_per_day"), "It was refused: its user had too few tokens left on that day."),
            (
                limited("max_concurrency"),
                "It was refused: its user had as many requests running or waiting as allowed.",
            ),
            (limited("key.requests_per_minute"), "It was refused: its key had used up the requests of a minute."),
            (limited("key.tokens_per_day"), "It was refused: its key had too few tokens left on that day."),
            (
                limited("group.tokens_per_month"),
                "It was refused: the group of its user had too few tokens left in that month.",
            ),
            (limited("queue.max_queued_per_user"), "It was refused: its user had as many requests waiting as allowed."),
            (limited("queue.max_queued"), "It was refused: the queue was full."),
            (limited("server.body_memory_bytes"), "It was refused: there was no memory for its body."),
            (
                UsageRow { requests: 8, ..limited("requests_per_minute") },
                "It was refused: its user had used up the requests of a minute. 7 more requests of that minute ended alike \
                 and share its row.",
            ),
            (
                row("refused", Some("node_maintenance"), None),
                "It was refused: every node that has its model was under maintenance.",
            ),
        ] {
            assert_eq!(in_words(&row, None), said, "{:?} {:?}", row.status, row.reason);
        }
    }

    #[test]
    fn each_outcome_has_a_plain_sentence() {
        for (row, said) in [
            (
                sent("a", 0, 1, row("completed", None, None)),
                "It went to a at once. It was answered whole, after 1.2 s.",
            ),
            (
                sent("a", 4_100, 1, row("completed", None, None)),
                "It waited 4.1 s for a slot on a. It was answered whole, after 1.2 s.",
            ),
            (
                sent("a", 0, 3, row("completed", None, None)),
                "It went to a at once. Before that, 2 attempts failed. It was answered whole, after 1.2 s.",
            ),
            (row("cancelled", Some("client_cancelled"), None), "Its client left before the end."),
            (
                sent("a", 0, 1, row("cancelled", Some("request_stopped"), None)),
                "It went to a at once. It was stopped by an operator, or with a key of its user.",
            ),
            (row("cancelled", Some("invalid_api_key"), None), "It was ended, as its key was revoked."),
            (
                UsageRow { queue_ms: 60_000, ..row("deadline", Some("server_is_overloaded"), None) },
                "It waited 60.0 s for a slot. No slot became free in time.",
            ),
            (
                sent("a", 0, 1, row("deadline", Some("timeout"), None)),
                "It went to a at once. It was broken off after 1.2 s, as it took too long.",
            ),
            (row("interrupted", None, None), "The gateway stopped before its end."),
            (
                sent("a", 0, 1, row("upstream_error", Some("upstream_error"), None)),
                "It went to a at once. It failed on a: the node gave no whole answer.",
            ),
            (row("refused", Some("no_node_available"), None), "It was refused: no node that has its model was up."),
        ] {
            assert_eq!(in_words(&row, None), said, "{:?} {:?}", row.status, row.reason);
        }
        let waited = sent("fast", 4_100, 1, row("completed", None, None));
        assert_eq!(
            in_words(&waited, Some("loading on big would have taken 9.0 s")),
            "It waited 4.1 s for a slot on fast; loading on big would have taken 9.0 s. It was answered whole, after 1.2 s."
        );
    }

    #[test]
    fn no_code_that_a_row_may_have_is_without_words() {
        for code in error_kind::ALL.iter().filter_map(|kind| kind.code) {
            assert_ne!(explained(code).is_some(), WITHOUT_ROW.contains(&code), "{code}");
        }
    }
}
