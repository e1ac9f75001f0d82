//! Are the messages well formed, and what do they contain? In each dialect, including what tools returned.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::media::{self, ContentPart, Media};
use crate::field::{BadRequest, bad, field};
use crate::json::Object;

/// How deeply nested contents are followed; anything deeper counts as text.
const MAX_NESTING: usize = 8;

/// A message in any dialect. In Ollama's own, images are beside the content.
#[derive(Deserialize)]
struct PromptMessage<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    images: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// An item of `/v1/responses`. Items that are not messages (calls, their outputs, reasoning) have no content.
#[derive(Deserialize)]
struct InputItem<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    /// What a tool returned: a text, a list of parts, or one part.
    #[serde(borrow)]
    output: Option<&'a RawValue>,
}

/// Checks the messages and counts their media.
pub(super) fn messages(object: &Object<'_>, media: &mut Media) -> Result<(), BadRequest> {
    let messages: Vec<PromptMessage> = field(object, "messages", "a list of messages, each an object")?
        .ok_or_else(|| bad("messages", "`messages` is missing"))?;
    if messages.is_empty() {
        return Err(bad("messages", "`messages` must contain at least one message"));
    }
    for message in messages {
        if !message.role.is_some_and(|role| role.get().starts_with('"')) {
            return Err(bad("messages", "every message must have a `role`"));
        }
        media::images("messages", message.images, media)?;
        if let Some(calls) = message.tool_calls {
            media.add_rendered(calls);
        }
        content("messages", message.content, media)?;
    }
    Ok(())
}

/// Checks the items of `/v1/responses` and counts their media.
pub(super) fn items(input: &RawValue, media: &mut Media) -> Result<(), BadRequest> {
    let items: Vec<InputItem> = serde_json::from_str(input.get())
        .map_err(|_| bad("input", "a list as `input` must contain items, each an object"))?;
    for item in items {
        content("input", item.content, media)?;
        nested("input", item.output, media, 0)?;
    }
    Ok(())
}

fn content(param: &'static str, content: Option<&RawValue>, media: &mut Media) -> Result<(), BadRequest> {
    let content = content.map_or("null", RawValue::get);
    match content.as_bytes().first() {
        Some(b'"' | b'n') => Ok(()),
        Some(b'[') => {
            let parts: Vec<&RawValue> = serde_json::from_str(content).unwrap_or_default();
            for raw in parts {
                // In the newer API, items may lack a type.
                let needs_kind = param != "input";
                part(param, raw, needs_kind, media, 0)?;
            }
            Ok(())
        }
        _ => Err(bad(param, "the `content` of a message must be a string or a list of parts")),
    }
}

/// Checks what a tool returned. Anything not made of parts is text.
fn nested(param: &'static str, content: Option<&RawValue>, media: &mut Media, depth: usize) -> Result<(), BadRequest> {
    let Some(content) = content.filter(|_| depth < MAX_NESTING) else { return Ok(()) };
    match content.get().as_bytes().first() {
        Some(b'[') => {
            let parts: Vec<&RawValue> = serde_json::from_str(content.get()).unwrap_or_default();
            let mut objects = parts.into_iter().filter(|part| part.get().starts_with('{'));
            objects.try_for_each(|raw| part(param, raw, false, media, depth + 1))
        }
        Some(b'{') => part(param, content, false, media, depth + 1),
        _ => Ok(()),
    }
}

fn part(
    param: &'static str,
    raw: &RawValue,
    needs_kind: bool,
    media: &mut Media,
    depth: usize,
) -> Result<(), BadRequest> {
    let wrong = |_| bad(param, "a list as `content` must contain parts, each an object");
    let part: ContentPart = serde_json::from_str(raw.get()).map_err(wrong)?;
    let kind = part.kind.map_or("", RawValue::get);
    if (needs_kind || !kind.is_empty()) && !kind.starts_with('"') {
        return Err(bad(param, "every part of a `content` must have a `type`"));
    }
    if let Some(input) = part.input {
        media.add_rendered(input);
    }
    // A tool call contains no media, whatever its members are called.
    if kind != "\"tool_use\"" {
        media::check(param, &part, media)?;
        nested(param, part.source.and_then(|source| source.content), media, depth)?;
    }
    nested(param, part.content, media, depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &str) -> Result<Media, BadRequest> {
        let body = format!(r#"{{"messages":[{{"role":"user","content":{parts}}}]}}"#);
        let mut media = Media::default();
        messages(&Object::parse(body.as_bytes()).unwrap(), &mut media)?;
        Ok(media)
    }

    fn of_items(items_: &str) -> Result<Media, BadRequest> {
        let mut media = Media::default();
        items(serde_json::from_str(items_).unwrap(), &mut media)?;
        Ok(media)
    }

    #[test]
    fn media_travels_nested_in_what_tools_return() {
        let data = "A".repeat(270_000);
        let image =
            format!(r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#);
        for (parts, images) in [
            (format!("[{image}]"), 1),
            (format!(r#"[{{"type":"tool_result","tool_use_id":"t","content":[{image},{image}]}}]"#), 2),
            (format!(r#"[{{"type":"document","source":{{"type":"content","content":[{image}]}}}}]"#), 1),
        ] {
            let media = of(&parts).unwrap();
            assert_eq!((media.images, media.weight), (images, images * 270_002), "{}", &parts[..60]);
        }
        let url = format!(r#""image_url":"data:image/png;base64,{data}""#);
        for item in [
            format!(r#"[{{"type":"function_call_output","call_id":"c","output":[{{"type":"input_image",{url}}}]}}]"#),
            format!(r#"[{{"type":"computer_call_output","output":{{"type":"computer_screenshot",{url}}}}}]"#),
            format!(r#"[{{"role":"user","content":[{{"type":"input_image",{url}}}]}}]"#),
        ] {
            assert_eq!(of_items(&item).unwrap().images, 1);
        }
    }

    #[test]
    fn what_only_looks_like_media_is_text() {
        let long = "a".repeat(10_000);
        for parts in [
            format!(r#"[{{"type":"tool_use","id":"t","name":"f","input":{{"source":{{"data":"{long}"}}}}}}]"#),
            format!(r#"[{{"type":"tool_use","id":"t","name":"f","source":{{"data":"{long}"}},"input":{{}}}}]"#),
            format!(r#"[{{"type":"text","text":"data:image/png;base64,{long}"}}]"#),
            format!(r#""data:image/png;base64,{long}""#),
            format!(r#"[{{"type":"document","source":{{"type":"text","media_type":"text/plain","data":"{long}"}}}}]"#),
        ] {
            assert_eq!(of(&parts).unwrap().weight, 0, "{}", &parts[..60]);
        }
        // Nested deeper than anybody needs, it counts as text and is not followed.
        let image = r#"[{"type":"image","source":{"type":"base64","data":"AAAA"}}]"#.to_owned();
        let deep = (0..100).fold(image, |inner, _| format!(r#"[{{"type":"tool_result","content":{inner}}}]"#));
        assert_eq!(of(&deep).unwrap().images, 0);
    }

    #[test]
    fn empty_strings_and_nulls_in_a_part_are_absent() {
        for parts in [
            r#"[{"type":"text","text":"a","image_url":"","file_id":"","file_data":""}]"#,
            r#"[{"type":"text","text":"a","image_url":null,"source":null,"input_audio":null,"file":null}]"#,
            r#"[{"type":"tool_result","content":""}]"#,
            r#"[{"type":"tool_result","content":null}]"#,
            "null",
            r#""""#,
        ] {
            assert_eq!(of(parts).unwrap().images, 0, "{parts}");
        }
    }

    #[test]
    fn a_file_that_is_kept_elsewhere_has_its_own_words() {
        for parts in [
            r#"[{"type":"document","source":{"type":"file","file_id":"f"}}]"#,
            r#"[{"type":"file","file":{"file_id":"f"}}]"#,
            r#"[{"type":"input_file","file_id":"f"}]"#,
        ] {
            assert!(of(parts).unwrap_err().message.contains("`file_id`"), "{parts}");
        }
        let message =
            of(r#"[{"type":"image","source":{"type":"url","url":"https://example.org"}}]"#).unwrap_err().message;
        assert!(message.contains("base64"), "{message}");
    }

    #[test]
    fn images_that_are_no_list_have_their_own_words() {
        let body = r#"{"messages":[{"role":"user","content":"a","images":"AAAA"}]}"#;
        let error = messages(&Object::parse(body.as_bytes()).unwrap(), &mut Media::default()).unwrap_err();
        assert!(error.message.contains("`images`") && error.message.contains("a string"), "{error}");
    }
}
