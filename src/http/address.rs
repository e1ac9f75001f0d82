//! Which path does a client mean? Clients join paths carelessly, and some can send a key only in the path.
use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::uri::PathAndQuery;

/// Paths that are taken without their `/v1`, as clients ask for them whose base URL lacks it.
const BARE: [&str; 6] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses", "/messages"];

/// Puts the path into the form that routes have: `/k/<key>` becomes a header, doubled and trailing slashes go, and a
/// missing `/v1` is put in front. From here on nothing sees the path as it was, so that no log holds the key.
pub(super) fn normalise(request: &mut ServiceRequest) {
    let Some((path, key)) = clean(request.path()) else { return };
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        request.headers_mut().append(HeaderName::from_static("x-api-key"), key);
    }
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// The path that is meant, and the key that was in it; `None` where nothing is to be done.
fn clean(path: &str) -> Option<(String, Option<String>)> {
    let keyed = path.trim_start_matches('/').strip_prefix("k/");
    let (rest, key) = match keyed.map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some((key, rest)) => (format!("/{rest}"), Some(key.to_owned())),
        None => (path.to_owned(), None),
    };
    let documents = rest.starts_with("/docs");
    let mut clean = String::with_capacity(rest.len());
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() || (documents && rest.ends_with('/')) {
        clean.push('/');
    }
    if BARE.iter().any(|bare| clean.strip_prefix(bare).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
        clean.insert_str(0, "/v1");
    }
    (clean != path).then_some((clean, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn careless_paths_mean_what_they_should() {
        for (path, meant) in [
            ("/v1//chat/completions", "/v1/chat/completions"),
            ("//chat/completions", "/v1/chat/completions"),
            ("/models/", "/v1/models"),
            ("/models/llama3.2", "/v1/models/llama3.2"),
            ("/v1/models/", "/v1/models"),
            ("//", "/"),
            ("/docs//x", "/docs/x"),
        ] {
            assert_eq!(clean(path), Some((meant.to_owned(), None)), "{path}");
        }
        for path in ["/", "/docs/", "/docs", "/v1/chat/completions", "/api/chat", "/modelsx"] {
            assert_eq!(clean(path), None, "{path}");
        }
    }

    #[test]
    fn a_key_in_the_path_leaves_it() {
        let key = |path: &str| clean(path).unwrap();
        assert_eq!(key("/k/sk-a-1/api/chat"), ("/api/chat".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("/k/sk-a-1"), ("/".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("/k/sk-a-1/"), ("/".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("//k/sk-a-1//api/chat"), ("/api/chat".to_owned(), Some("sk-a-1".to_owned())));
        // Somebody's key that was left empty, rather than a doubled slash.
        assert_eq!(key("/k//api/chat"), ("/api/chat".to_owned(), Some(String::new())));
    }
}
