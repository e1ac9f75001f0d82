//! The page of every error, from the table in src/http/error_kind.rs.
use ollama_gateway::http::error_kind::ALL;

use crate::markdown::{code, table};
use crate::{files, text};

pub fn page() -> String {
    let introduction = "Every error that the gateway itself answers, in OpenAI's form: `{\"error\": {\"message\", \"type\", \
        \"param\", \"code\"}}`. [Other dialects](../use.md#errors) say the same in their own form. 429 and 503 carry `Retry-After` in whole \
        seconds and `retry-after-ms`; `x-should-retry: false` means that another try cannot help. A 4xx of a node \
        about the client's own request is passed on as the node said it. Once a stream has begun, its errors arrive \
        inside it, with the same `type` and `code`.";
    let row = |kind: &&ollama_gateway::http::error_kind::ErrorKind| {
        let (status, name) = (kind.status.to_string(), kind.code.map_or("–".to_owned(), code));
        vec![status, name, code(kind.kind), kind.when.to_owned(), kind.remedy.to_owned()]
    };
    let table = table(&["status", "code", "type", "when", "what to do"], ALL.iter().map(row));
    crate::page("Errors", "src/http/error_kind.rs", introduction, &table)
}

#[test]
fn every_kind_of_error_is_answered_somewhere() {
    let sources: String = files("src/http", "rs").iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let names = text("src/http/error_kind.rs");
    let names = names.lines().filter_map(|line| line.trim().split_once(" = ")?.0.split_whitespace().next());
    let declared: Vec<_> =
        names.filter(|name| name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')).collect();
    assert_eq!(declared.len(), ALL.len(), "{declared:?}");
    for name in declared {
        assert!(sources.contains(&format!("error_kind::{name}")), "nothing answers {name}");
    }
}
