//! Which names mean the same model?

/// A name without a tag means the tag `latest`.
pub(crate) fn with_tag(name: &str) -> String {
    let last_segment = name.rsplit('/').next().unwrap_or(name);
    if last_segment.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}
