//! Which route does a client mean by its path? Clients join paths carelessly, and some can give a key or a model only
//! in the path.
use percent_encoding::percent_decode_str;

/// Paths that are accepted without `/v1`, because clients whose base URL lacks it ask for them.
const BARE: [&str; 6] = ["/chat/completions", "/completions", "/embeddings", "/models", "/responses", "/messages"];

/// The parts that a base URL joined to a whole path consists of.
const JOINED: [&str; 12] = [
    "v1",
    "api",
    "openai",
    "chat",
    "completions",
    "messages",
    "responses",
    "embeddings",
    "embed",
    "generate",
    "models",
    "tags",
];
/// The route for the last part of a path, longer parts first.
const LIKELY: [(&str, &str); 15] = [
    ("/messages/count_tokens", "/v1/messages/count_tokens"),
    ("/chat/completions", "/v1/chat/completions"),
    ("/chat/completion", "/v1/chat/completions"),
    ("/completions", "/v1/completions"),
    ("/completion", "/v1/completions"),
    ("/responses", "/v1/responses"),
    ("/messages", "/v1/messages"),
    ("/embeddings", "/v1/embeddings"),
    ("/models", "/v1/models"),
    ("/chat", "/api/chat"),
    ("/generate", "/api/generate"),
    ("/embed", "/api/embed"),
    ("/tags", "/api/tags"),
    ("/ps", "/api/ps"),
    ("/show", "/api/show"),
];

/// The meaning of a path that is not written as routes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// In the form that routes have.
    pub path: String,
    /// The key in `/k/<key>/…`. `path` does not contain it.
    pub key: Option<String>,
    /// The model in Azure's `/openai/deployments/<model>/…`.
    pub deployment: Option<String>,
}

/// The intended path: without `/k/<key>`, Azure's `/openai` and its deployment, doubled and trailing slashes, and a
/// base URL that was joined twice; and with a missing `/v1` added. `None` if the path needs no change.
pub fn meant(path: &str) -> Option<Meant> {
    let (rest, key) = part_behind(path, "k/");
    let (rest, azure) = match slashless(rest).strip_prefix("openai/") {
        Some(azure) => (azure, true),
        None => (rest, false),
    };
    let (rest, deployment) = if azure { part_behind(rest, "deployments/") } else { (rest, None) };
    let deployment = deployment.map(|model| percent_decode_str(model).decode_utf8_lossy().into_owned());

    let mut clean = String::with_capacity(rest.len() + 4);
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        clean.push('/');
        clean.push_str(part);
    }
    // Relative links on these pages depend on the slash.
    let has_slash = clean.starts_with("/docs") || clean == "/console";
    if clean.is_empty() || (has_slash && rest.ends_with('/')) {
        clean.push('/');
    }
    if BARE.iter().any(|bare| clean.strip_prefix(bare).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
        clean.insert_str(0, "/v1");
    } else if deployment.is_some() {
        // Deployments exist only in OpenAI's API, so the path is put back and leads nowhere.
        clean.insert_str(0, "/openai/deployments");
    }
    if let Some(last) = unjoined(&clean) {
        clean = last;
    }
    (clean != path).then_some(Meant { path: clean, key: key.map(str::to_owned), deployment })
}

/// The route that was probably meant by a path that is no route.
pub fn likely(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/');
    let found = LIKELY.iter().find(|(end, _)| path.ends_with(end));
    found.map(|(_, route)| *route).filter(|route| *route != path)
}

/// The last of several joined paths, as in `/v1/v1/messages` or `/v1/chat/completions/chat/completions`.
fn unjoined(path: &str) -> Option<String> {
    // A model's name may contain anything.
    if path.starts_with("/v1/models/") {
        return None;
    }
    let parts: Vec<&str> = path[1..].split('/').collect();
    let last_base = parts.iter().rposition(|part| matches!(*part, "v1" | "api")).filter(|at| *at > 0);
    if let Some(at) = last_base.filter(|at| parts[..*at].iter().all(|part| JOINED.contains(part))) {
        return Some(format!("/{}", parts[at..].join("/")));
    }
    let rest = path.strip_prefix("/v1")?;
    let second = BARE.iter().find_map(|bare| rest.strip_prefix(bare).filter(|rest| BARE.contains(rest)));
    second.map(|second| format!("/v1{second}"))
}

fn slashless(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// For a path that begins with `<name><part>`: what follows, and the part. Otherwise the path unchanged.
fn part_behind<'a>(path: &'a str, name: &str) -> (&'a str, Option<&'a str>) {
    match slashless(path).strip_prefix(name) {
        Some(rest) => {
            let (part, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (rest, Some(part))
        }
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn careless_paths_mean_what_they_should() {
        for (path, means) in [
            ("/v1//chat/completions", "/v1/chat/completions"),
            ("//chat/completions", "/v1/chat/completions"),
            ("/models/", "/v1/models"),
            ("/models/llama3.2", "/v1/models/llama3.2"),
            ("/v1/models/", "/v1/models"),
            ("//", "/"),
            ("/docs//x", "/docs/x"),
            ("/openai/v1/chat/completions", "/v1/chat/completions"),
            ("/openai/models", "/v1/models"),
        ] {
            let path_alone = Meant { path: means.to_owned(), key: None, deployment: None };
            assert_eq!(meant(path), Some(path_alone), "{path}");
        }
        for path in ["/", "/docs/", "/docs", "/v1/chat/completions", "/api/chat", "/modelsx", "/openai", "/v1/openai/x"]
        {
            assert_eq!(meant(path), None, "{path}");
        }
    }

    #[test]
    fn joined_base_urls_mean_their_last_part() {
        for (path, means) in [
            ("/v1/v1/messages", "/v1/messages"),
            ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/v1/api/chat", "/api/chat"),
            ("/api/v1/chat/completions", "/v1/chat/completions"),
            ("/api/api/tags", "/api/tags"),
            ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
            ("/chat/completions/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/v1/models", "/v1/models"),
            ("/api/chat/v1/messages", "/v1/messages"),
            ("/openai/v1/openai/v1/responses/", "/v1/responses"),
        ] {
            assert_eq!(meant(path).map(|meant| meant.path).as_deref(), Some(means), "{path}");
        }
        assert_eq!(meant("/k/sk-a-1/v1/v1/messages").unwrap().key.as_deref(), Some("sk-a-1"));
        for path in [
            "/v1/models/api/v1",
            "/v1/models/v1/messages",
            "/admin/v1/users",
            "/x/api/chat",
            "/v1/messages/count_tokens",
        ] {
            assert_eq!(meant(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_none_has_a_likely_one() {
        for (path, route) in [
            ("/v2/chat/completions", Some("/v1/chat/completions")),
            ("/v1/chat/completion", Some("/v1/chat/completions")),
            ("/anthropic/v1/messages", Some("/v1/messages")),
            ("/x/messages/count_tokens/", Some("/v1/messages/count_tokens")),
            ("/v1/chat", Some("/api/chat")),
            ("/v1/tags", Some("/api/tags")),
            ("/v1/chat/completions", None),
            ("/nothing", None),
        ] {
            assert_eq!(likely(path), route, "{path}");
        }
    }

    #[test]
    fn a_key_in_the_path_leaves_it() {
        let key = |path: &str| meant(path).map(|meant| (meant.path, meant.key)).unwrap();
        assert_eq!(key("/k/sk-a-1/api/chat"), ("/api/chat".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("/k/sk-a-1"), ("/".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("/k/sk-a-1/"), ("/".to_owned(), Some("sk-a-1".to_owned())));
        assert_eq!(key("//k/sk-a-1//api/chat"), ("/api/chat".to_owned(), Some("sk-a-1".to_owned())));
        // A key that was left empty, not a doubled slash.
        assert_eq!(key("/k//api/chat"), ("/api/chat".to_owned(), Some(String::new())));
    }

    #[test]
    fn a_deployment_is_a_model() {
        for (path, means, model) in [
            ("/openai/deployments/llama3.2/chat/completions", "/v1/chat/completions", "llama3.2"),
            ("/openai//deployments/llama3.2%3A1b/embeddings/", "/v1/embeddings", "llama3.2:1b"),
            ("/openai/deployments/hf.co%2Fa%2Fb/completions", "/v1/completions", "hf.co/a/b"),
            ("/openai/deployments/m/api/chat", "/openai/deployments/api/chat", "m"),
        ] {
            let found = meant(path).unwrap();
            assert_eq!((found.path.as_str(), found.deployment.as_deref()), (means, Some(model)), "{path}");
        }
        let both = meant("/k/sk-a-1/openai/deployments/m/chat/completions").unwrap();
        assert_eq!(both.key.as_deref(), Some("sk-a-1"));
        assert_eq!(both.deployment.as_deref(), Some("m"));
    }
}
