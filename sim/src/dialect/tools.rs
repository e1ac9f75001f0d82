//! How do `/api/chat` and `/v1/chat/completions` describe the tools on offer?

use serde::Deserialize;
use serde_json::Value;

use crate::ask::Tool;

/// A tool as both routes carry it.
#[derive(Deserialize)]
pub(super) struct FunctionTool {
    function: FunctionSpec,
}

#[derive(Deserialize)]
struct FunctionSpec {
    name: String,
    #[serde(default)]
    parameters: Value,
}

impl From<FunctionTool> for Tool {
    fn from(tool: FunctionTool) -> Self {
        Self { name: tool.function.name, parameters: tool.function.parameters }
    }
}
