//! How does a browser carry a session, and was it a page of ours that sent a request?
use actix_web::http::header::{COOKIE, HOST, HeaderMap, HeaderName, ORIGIN};

/// Its name.
pub(super) const SESSION_COOKIE: &str = "ollama_gateway_session";
/// Sent by the console's own pages: a form of another site cannot.
const CONSOLE: HeaderName = HeaderName::from_static("x-console");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The token of the session cookie, if there is one.
pub(super) fn token_of(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.split_once('='));
    cookies
        .find(|(name, _)| name.trim() == SESSION_COOKIE)
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
}

/// Whether a session counts as its key on this path: where the console needs it, and nowhere else.
pub(super) fn count_on(path: &str) -> bool {
    let is_under = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path == "/v1/chat/completions"
        || ["/admin", "/console", "/v1/me", "/v1/models", "/v1/usage"].iter().any(|root| is_under(root))
}

/// Whether this is a request of the console's own page, as one that changes something must be.
pub(super) fn is_of_console(headers: &HeaderMap) -> bool {
    headers.get(CONSOLE).is_some_and(|value| value == "1") && site_of(headers) == Site::Own
}

/// Where a request comes from, as the browser says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    /// A page of this gateway.
    Own,
    /// A page of another origin.
    Other,
    /// It does not say: no browser, or an old one.
    Unsaid,
}

/// Where a request comes from. Browsers set both headers themselves, and no page can change them.
pub(super) fn site_of(headers: &HeaderMap) -> Site {
    if let Some(site) = headers.get(FETCH_SITE) {
        return if site == "same-origin" { Site::Own } else { Site::Other };
    }
    let Some(origin) = headers.get(ORIGIN) else { return Site::Unsaid };
    let is_own = origin.to_str().ok().zip(headers.get(HOST).and_then(|host| host.to_str().ok()));
    match is_own.is_some_and(|(origin, host)| is_at(origin, host)) {
        true => Site::Own,
        false => Site::Other,
    }
}

/// Whether an origin is at this host. A port that is the scheme's own may be left out.
fn is_at(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |authority: &str| authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase();
    !host.is_empty() && bare(authority) == bare(host)
}

/// The header that gives a browser its session for `seconds`; 0 takes it away.
pub(super) fn set_cookie(headers: &HeaderMap, token: &str, seconds: i64) -> String {
    let secure = if is_secure(headers) { "; Secure" } else { "" };
    format!("{SESSION_COOKIE}={token}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser speaks TLS, to a proxy in front. Whoever forges this keeps a cookie of their own off plain HTTP, and no
/// more.
fn is_secure(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
    };
    let forwarded = text(FORWARDED);
    let mut parts = forwarded.split([';', ',']).map(str::trim);
    text(FORWARDED_PROTO).split(',').next().is_some_and(|proto| proto.trim() == "https")
        || parts.any(|part| matches!(part, "proto=https" | "proto=\"https\""))
        || text(ORIGIN).starts_with("https://")
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in given {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_token_is_found_among_other_cookies() {
        for (cookie, token) in [
            ("ollama_gateway_session=abc", Some("abc")),
            ("a=b; ollama_gateway_session=abc ; c=d", Some("abc")),
            ("my_ollama_gateway_session=abc", None),
            ("ollama_gateway_session=", None),
            ("ollama_gateway_session", None),
        ] {
            assert_eq!(token_of(&headers(&[("cookie", cookie)])), token, "{cookie}");
        }
        assert_eq!(token_of(&headers(&[("cookie", "a=b"), ("cookie", "ollama_gateway_session=abc")])), Some("abc"));
    }

    #[test]
    fn a_session_counts_where_the_console_needs_it() {
        for path in [
            "/admin/users",
            "/v1/me",
            "/v1/me/keys",
            "/v1/models",
            "/v1/usage/summary",
            "/v1/chat/completions",
            "/console/session",
        ] {
            assert!(count_on(path), "{path}");
        }
        for path in
            ["/v1/embeddings", "/v1/completions", "/v1/mean", "/api/chat", "/administration", "/v1/chat/completions/x"]
        {
            assert!(!count_on(path), "{path}");
        }
    }

    #[test]
    fn a_page_is_ours_where_the_browser_says_so() {
        for (given, site) in [
            (&[("host", "gw:8000"), ("origin", "http://gw:8000")][..], Site::Own),
            (&[("host", "gw"), ("origin", "https://GW:443")], Site::Own),
            (&[("host", "gw:80"), ("origin", "http://gw")], Site::Own),
            (&[("host", "[::1]:8000"), ("origin", "http://[::1]:8000")], Site::Own),
            (&[("host", "inner"), ("origin", "https://gw"), ("sec-fetch-site", "same-origin")], Site::Own),
            (&[("host", "gw"), ("origin", "http://gw:443")], Site::Other),
            (&[("host", "gw"), ("origin", "https://gw.evil")], Site::Other),
            (&[("host", "gw"), ("origin", "null")], Site::Other),
            (&[("host", "gw"), ("origin", "ftp://gw")], Site::Other),
            (&[("origin", "http://")], Site::Other),
            (&[("host", "gw"), ("origin", "http://gw"), ("sec-fetch-site", "same-site")], Site::Other),
            (&[("sec-fetch-site", "none")], Site::Other),
            (&[("host", "gw")], Site::Unsaid),
        ] {
            assert_eq!(site_of(&headers(given)), site, "{given:?}");
        }
    }

    #[test]
    fn a_change_takes_both_the_header_and_the_page() {
        let own = [("host", "gw"), ("origin", "http://gw"), ("x-console", "1")];
        assert!(is_of_console(&headers(&own)));
        assert!(!is_of_console(&headers(&own[..2])) && !is_of_console(&headers(&own[1..])));
        assert!(!is_of_console(&headers(&[("host", "gw"), ("x-console", "1")])));
    }

    #[test]
    fn the_cookie_stays_off_plain_http_where_tls_is_spoken() {
        assert_eq!(
            set_cookie(&headers(&[]), "abc", 60),
            "ollama_gateway_session=abc; Max-Age=60; Path=/; HttpOnly; SameSite=Strict"
        );
        for given in [
            [("x-forwarded-proto", "https")],
            [("x-forwarded-proto", "HTTPS, http")],
            [("forwarded", "for=1.2.3.4;proto=https")],
            [("origin", "https://gw")],
        ] {
            assert!(set_cookie(&headers(&given), "", 0).ends_with("; Secure"), "{given:?}");
        }
        for given in [[("x-forwarded-proto", "http")], [("forwarded", "proto=http")], [("origin", "http://https://")]] {
            assert!(!set_cookie(&headers(&given), "", 0).contains("Secure"), "{given:?}");
        }
    }
}
