//! Are the operator's settings for a node valid?
use super::endpoint::NodeEndpoint;
use super::kind::NodeKind;
use super::settings::NodeSettings;
use crate::flaw::Flaw;

impl NodeSettings {
    /// Everything that is wrong with them. Reads the files that they name.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_dots = matches!(self.name.as_str(), "." | "..");
        if is_dots || !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            flaws.push(Flaw::new("name", "expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", ""));
        }
        if self.slots.is_some_and(|slots| !(1..=1024).contains(&slots)) {
            flaws.push(Flaw::new("slots", "expected 1 to 1024", "the node's OLLAMA_NUM_PARALLEL"));
        }
        if self.vram_gb.is_some_and(|gigabytes| !(gigabytes > 0.0 && gigabytes < 1e6)) {
            flaws.push(Flaw::new("vram_gb", "expected a number above 0", ""));
        }
        let deadlines = [
            ("connect_ms", self.connect_ms),
            ("first_byte_seconds", self.first_byte_seconds),
            ("chunk_gap_seconds", self.chunk_gap_seconds),
            ("probe_timeout_ms", self.probe_timeout_ms),
            ("listing_timeout_seconds", self.listing_timeout_seconds),
        ];
        for (key, number) in deadlines {
            if number.is_some_and(|number| number == 0 || number > u64::from(u32::MAX)) {
                flaws.push(Flaw::new(key, "expected a whole number of at least 1 (and below 2^32)", ""));
            }
        }
        if self.kind == NodeKind::Ollama && !self.aliases.is_empty() {
            let hint = "`models.aliases` gives other names to the models of Ollama nodes";
            flaws.push(Flaw::new("aliases", "not available for an Ollama node", hint));
        }
        if self.aliases.iter().any(|(ours, theirs)| ours.is_empty() || theirs.is_empty()) {
            flaws.push(Flaw::new("aliases", "expected names", ""));
        }
        flaws.extend(NodeEndpoint::flaws(self));
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(change: impl FnOnce(&mut NodeSettings)) -> Vec<&'static str> {
        let mut settings = NodeSettings::new("a", "https://gpu.example.org");
        change(&mut settings);
        settings.flaws().iter().map(|flaw| flaw.key).collect()
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(flaws(|_| {}).is_empty());
        for name in ["a b", ".", "..", ""] {
            assert_eq!(flaws(|node| node.name = name.into()), ["name"], "{name}");
        }
        assert_eq!(flaws(|node| node.slots = Some(0)), ["slots"]);
        assert_eq!(flaws(|node| node.vram_gb = Some(0.0)), ["vram_gb"]);
        assert_eq!(flaws(|node| node.connect_ms = Some(0)), ["connect_ms"]);
        assert_eq!(flaws(|node| node.listing_timeout_seconds = Some(0)), ["listing_timeout_seconds"]);
        for path in ["", "health", "/a b", "/a?b"] {
            assert_eq!(flaws(|node| node.health_path = Some(path.into())), ["health_path"], "{path}");
        }
        let aliases = || [("a".to_owned(), "b".to_owned())].into();
        assert!(flaws(|node| node.aliases = aliases()).is_empty());
        assert_eq!(flaws(|node| (node.kind, node.aliases) = (NodeKind::Ollama, aliases())), ["aliases"]);
        assert_eq!(flaws(|node| node.api_key = Some("a b".into())), ["api_key"]);
        assert_eq!(flaws(|node| node.api_key_file = Some("/nowhere/key".into())), ["api_key_file"]);
        assert_eq!(flaws(|node| node.password = Some("x".into())), ["password"]);
        assert_eq!(flaws(|node| node.username = Some("x".into())), ["username"]);
        assert_eq!(flaws(|node| node.ca_file = Some("/nowhere/ca.pem".into())), ["ca_file"]);
        let two_ways = flaws(|node| {
            (node.api_key, node.username, node.password) = (Some("k".into()), Some("u".into()), Some("p".into()));
        });
        assert_eq!(two_ways, ["username"]);
        for name in ["host", "Authorization", "content-length", "x-request-id", "traceparent", "a b", ""] {
            assert_eq!(flaws(|node| drop(node.headers.insert(name.into(), "v".into()))), ["headers"], "{name}");
        }
        assert_eq!(flaws(|node| drop(node.headers.insert("x-key".into(), "a\nb".into()))), ["headers"]);
        assert_eq!(flaws(|node| drop(node.header_files.insert("x-key".into(), "/nowhere".into()))), ["header_files"]);
        let plain = flaws(|node| (node.url, node.ca_file) = ("http://a".into(), Some("/nowhere/ca.pem".into())));
        assert_eq!(plain, ["ca_file"]);
    }

    #[test]
    fn only_plain_addresses_are_taken() {
        let prefixed = ["http://a/b", "http://a/b/", "https://a/openai/v1", "http://a:1/v1"];
        for good in ["http://127.0.0.1:11434", "https://gpu.example.org", "http://[::1]:1/"].into_iter().chain(prefixed)
        {
            assert!(flaws(|node| node.url = good.into()).is_empty(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:11434",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a?b",
            "http://a/b?c",
            "http://a/../b",
            "http://a b",
        ] {
            assert_eq!(flaws(|node| node.url = bad.into()), ["url"], "{bad}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let mut settings = NodeSettings::new("a", "https://gpu.example.org");
        settings.api_key = Some("geheim key".into());
        settings.password = Some("geheim".into());
        settings.headers.insert("x-key".into(), "geheim\n".into());
        let said = format!("{settings:?} {:?}", settings.flaws());
        assert!(!said.contains("geheim"), "{said}");
    }
}
