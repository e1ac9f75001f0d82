//! Which errors can a program tell apart? The one table of statuses, types and codes; docs/reference/errors.md is made
//! from it.

/// One kind of error: what a client sees of it, and what to do about it.
#[derive(Debug)]
pub struct ErrorKind {
    /// The HTTP status.
    pub status: u16,
    /// `error.type`, in OpenAI's words.
    pub kind: &'static str,
    /// `error.code`; absent if `error.param` or the status says it all.
    pub code: Option<&'static str>,
    /// When a client gets it.
    pub when: &'static str,
    /// What the author of the client should do about it.
    pub remedy: &'static str,
}

impl ErrorKind {
    /// Whether the same request is bound to fail again, so that a client should not repeat it by itself.
    pub fn is_final(&self) -> bool {
        matches!(self.status, 400 | 401 | 403 | 404 | 405 | 413 | 415 | 422)
    }
}

/// Declares the kinds, and `ALL` of them in the order of this file.
macro_rules! kinds {
    ($($name:ident = $status:literal $kind:literal $code:expr; $when:literal; $remedy:literal;)*) => {
        $(
            #[doc = $when]
            pub const $name: ErrorKind =
                ErrorKind { status: $status, kind: $kind, code: $code, when: $when, remedy: $remedy };
        )*

        /// Every kind, by status.
        pub const ALL: &[&ErrorKind] = &[$(&$name),*];
    };
}

kinds! {
    INVALID = 400 "invalid_request_error" None;
        "The request is malformed, or asks for what Ollama cannot do. `param` names the field where there is one.";
        "Change the request as the message says.";
    UNAUTHORIZED = 401 "authentication_error" Some("invalid_api_key");
        "There is no key, or it is unknown, expired or revoked.";
        "Send a valid key. Under /admin that is the admin key, everywhere else a user's.";
    FORBIDDEN = 403 "permission_error" Some("not_allowed");
        "A user's key was sent to /admin; or the request would change the models of everybody, manage keys where the operator \
         does not allow it, or give a key more rights than the one that was used.";
        "Use the admin key, or ask the operator.";
    SUSPENDED = 403 "permission_error" Some("user_suspended");
        "The operator has suspended the user: none of the user's keys opens anything.";
        "Ask the operator.";
    STOPPED = 403 "permission_error" Some("request_stopped");
        "An operator, or somebody with a key of the same user, stopped the request.";
        "Read the message: it says who and why.";
    MODEL_NOT_ALLOWED = 403 "permission_error" Some("model_not_allowed");
        "The key may not be used for this model.";
        "Choose one that GET /v1/models lists, or have `allowed_models` of the key changed.";
    NOT_FOUND = 404 "not_found_error" Some("not_found");
        "Nothing is at this path, or the user, key, node or request it names does not exist.";
        "Check the path.";
    MODEL_NOT_FOUND = 404 "not_found_error" Some("model_not_found");
        "No node lists the model.";
        "Choose one that GET /v1/models lists, or have the operator pull it.";
    UNSUPPORTED_ENDPOINT = 404 "invalid_request_error" Some("unsupported_endpoint");
        "OpenAI's API has this path; the gateway does not, or no node that has the model does.";
        "Do without it: see what is not supported in docs/use.md.";
    METHOD_NOT_ALLOWED = 405 "invalid_request_error" Some("method_not_allowed");
        "The path exists, but not for this method.";
        "Use a method that the `Allow` header names.";
    BODY_TOO_SLOW = 408 "invalid_request_error" Some("request_timeout");
        "The body did not arrive within `server.body_seconds`.";
        "Send it again over a faster connection.";
    CONFLICT = 409 "invalid_request_error" Some("already_exists");
        "A user or node of this name exists already, or the user has a key of this name.";
        "Choose another name, or change the existing one.";
    NOT_CHANGEABLE = 409 "invalid_request_error" Some("not_changeable");
        "The node comes from `gateway.yaml` or from DNS and is not changed by REST.";
        "Change it where it is defined. Draining works for every node.";
    BODY_TOO_LARGE = 413 "invalid_request_error" Some("request_too_large");
        "The body is larger than `server.max_body_bytes`.";
        "Send less: fewer or smaller images as a rule.";
    UNKNOWN_CODING = 415 "invalid_request_error" Some("unsupported_encoding");
        "`Content-Encoding` names a coding other than gzip or zstd, or several.";
        "Send the body as it is, or in gzip or zstd.";
    MAKES_NODES_FAIL = 422 "invalid_request_error" Some("request_makes_nodes_fail");
        "This very request made nodes fail, again and again, while they answered other requests. It is not tried again for \
         up to five minutes, and carries `x-should-retry: false`.";
        "Change the request. The nodes' logs say what it did.";
    RATE_LIMITED = 429 "rate_limit_error" Some("rate_limit_exceeded");
        "A limit of the user or key is reached for now: requests or tokens per minute, concurrent requests, tokens that \
         running requests have reserved, or the user's share of the queue. Also: too many wrong keys from one network, or \
         requests open on one HTTP/2 connection.";
        "Wait for `Retry-After`; OpenAI's SDKs do so by themselves.";
    QUOTA_USED_UP = 429 "rate_limit_error" Some("insufficient_quota");
        "The day's tokens are used up, or the request needs more tokens than a whole minute allows. It carries \
         `x-should-retry: false`.";
        "Wait for the next day (UTC), send a smaller request, or ask for a higher limit.";
    INTERNAL = 500 "server_error" Some("internal_error");
        "The gateway made a mistake.";
        "Report it with its `x-request-id`.";
    UPSTREAM = 502 "server_error" Some("upstream_error");
        "No node gave a whole answer, although others were tried.";
        "Send it again. If it persists, the nodes' logs and GET /admin/nodes say why.";
    OVERLOADED = 503 "server_error" Some("server_is_overloaded");
        "The queue is full, no slot became free within `relay.queue_seconds`, or every node said that it is busy.";
        "Wait for `Retry-After`. If it happens often, there are too few slots.";
    NO_NODE = 503 "server_error" Some("no_node_available");
        "Nodes have the model, but none of them is up.";
        "Wait for `Retry-After`; the operator finds out why from GET /admin/nodes.";
    MAINTENANCE = 503 "server_error" Some("node_maintenance");
        "The operator has taken every node that has the model out of service for a while.";
        "Wait for `Retry-After`: the message says until when, and why.";
    STORAGE_UNAVAILABLE = 503 "server_error" Some("storage_unavailable");
        "Usage cannot be stored, or the key cannot be checked while the database is away.";
        "Wait for `Retry-After`; the operator looks at the disk, the database and the log.";
    LIMITS_UNAVAILABLE = 503 "server_error" Some("limits_unavailable");
        "Limits are shared with other gateways, Postgres is away, and this gateway's share is used up.";
        "Wait for `Retry-After`. Users without limits are not affected.";
    STOPPING = 503 "server_error" Some("server_shutting_down");
        "The gateway is draining before it stops.";
        "Send it again: another gateway, or the restarted one, takes it.";
    TIMEOUT = 504 "server_error" Some("timeout");
        "A node's first byte did not come within `relay.first_byte_seconds`, or the request took longer than \
         `relay.total_seconds`.";
        "Send it again, or ask for less at a time.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_look_the_same_to_a_program() {
        for (index, kind) in ALL.iter().enumerate() {
            let twin = ALL[..index].iter().find(|other| (other.status, other.code) == (kind.status, kind.code));
            assert!(twin.is_none(), "{kind:?}");
        }
        assert!(ALL.is_sorted_by_key(|kind| kind.status));
    }

    #[test]
    fn whatever_sdks_repeat_by_themselves_is_worth_repeating() {
        for kind in ALL {
            let is_repeated = matches!(kind.status, 408 | 409 | 429) || kind.status >= 500;
            assert_eq!(kind.is_final(), !is_repeated, "{kind:?}");
        }
    }
}
