//! Every route of the server, as a table.

/// What one method of one path takes and gives. Schemas are named as in `schemas/`.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub tag: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub summary: &'static str,
    /// None: no body.
    pub request: Option<&'static str>,
    /// Content types, each with its schema; None: a text, such as a stream of events.
    pub responses: &'static [(&'static str, Option<&'static str>)],
    pub error: &'static str,
}

impl Operation {
    /// Such as `post_v1_chat_completions`.
    pub fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        std::iter::once(self.method).chain(words).collect::<Vec<_>>().join("_")
    }

    /// The path's parameters.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const ND_JSON: &str = "application/x-ndjson";
const AWS_EVENTS: &str = "application/vnd.amazon.eventstream";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A row of the table. `responses`: by content type.
macro_rules! operations {
    ($($tag:literal $error:literal { $($method:ident $path:literal $summary:literal $(($request:literal))?
        => $($kind:ident $($schema:literal)?),*;)* })*) => {
        &[$($(Operation {
            tag: $tag,
            method: stringify!($method),
            path: $path,
            summary: $summary,
            request: operations!(@name $($request)?),
            responses: &[$(($kind, operations!(@name $($schema)?))),*],
            error: $error,
        },)*)*]
    };
    (@name) => { None };
    (@name $name:literal) => { Some($name) };
}

pub const OPERATIONS: &[Operation] = operations! {
    "OpenAI" "OpenAiError" {
        post "/v1/chat/completions" "Answer a conversation" ("ChatRequest") => JSON "ChatCompletion", SSE;
        post "/v1/completions" "Continue texts" ("CompletionRequest") => JSON "Completion", SSE;
        post "/v1/responses" "Answer a conversation; nothing is kept" ("ResponsesRequest") => JSON "Response", SSE;
        post "/v1/embeddings" "Turn texts into vectors" ("EmbeddingsRequest") => JSON "EmbeddingList";
        get "/v1/models" "The models that are served" => JSON "ModelList";
        get "/v1/models/{id}" "One of them" => JSON "Model";
    }
    "Anthropic" "AnthropicError" {
        post "/v1/messages" "Answer a conversation" ("MessagesRequest") => JSON "AnthropicMessage", SSE;
        post "/v1/messages/count_tokens" "Count the tokens of a conversation" ("CountTokensRequest") => JSON "TokenCount";
    }
    "Ollama" "OllamaError" {
        post "/api/chat" "Answer a conversation" ("OllamaChatRequest") => JSON "OllamaAnswer", ND_JSON;
        post "/api/generate" "Answer a prompt" ("OllamaGenerateRequest") => JSON "OllamaAnswer", ND_JSON;
        post "/api/embed" "Turn texts into vectors" ("OllamaEmbedRequest") => JSON "OllamaEmbeddings";
        post "/api/embeddings" "Turn a text into a vector" ("OllamaEmbeddingsRequest") => JSON "OllamaEmbedding";
        get "/api/tags" "The models that are served" => JSON "OllamaModels";
        get "/api/ps" "The models in memory" => JSON "OllamaModels";
        post "/api/show" "What a model is" ("OllamaModelName") => JSON "OllamaModelCard";
        post "/api/pull" "Fetch a model" ("OllamaPullRequest") => JSON "OllamaStatus", ND_JSON;
        post "/api/copy" "Give a model a second name" ("OllamaCopyRequest") =>;
        delete "/api/delete" "Delete a model" ("OllamaModelName") =>;
        get "/api/version" "The server's version" => JSON "Version";
    }
    "Bedrock" "BedrockError" {
        post "/model/{id}/converse" "Answer a conversation" ("ConverseRequest") => JSON "ConverseAnswer";
        post "/model/{id}/converse-stream" "Answer a conversation, as events" ("ConverseRequest") => AWS_EVENTS;
        post "/model/{id}/invoke" "Answer in a family's own form" ("InvokeRequest") => JSON "InvokeAnswer";
        post "/model/{id}/invoke-with-response-stream" "The same, as events" ("InvokeRequest") => AWS_EVENTS;
        post "/model/{id}/count-tokens" "Count the tokens of a request" ("BedrockCountRequest") => JSON "BedrockTokenCount";
    }
    "Tokens" "OpenAiError" {
        post "/tokenize" "Turn a text into tokens" ("TokenizeRequest") => JSON "Tokens";
        post "/detokenize" "Turn tokens into a text" ("DetokenizeRequest") => JSON "Text";
        post "/apply-template" "A conversation as the model sees it" ("ApplyTemplateRequest") => JSON "Text";
    }
    "Server" "OpenAiError" {
        get "/" "A page for people" => HTML;
        get "/page/{name}" "A file of the page" => HTML, CSS, JAVASCRIPT, SVG;
        get "/live" "What the server does, twice a second until the client leaves" => SSE;
        get "/health" "Whether every engine that has work takes steps" => JSON "Health";
        get "/health/live" "Whether the server is there" => JSON "Health";
        get "/health/ready" "Whether requests should be sent here" => JSON "Health";
        get "/metrics" "Figures for Prometheus, under vLLM's names" => PROMETHEUS;
        get "/models/resident" "The models in memory, and their engines" => JSON "Residents";
        post "/models/unload" "Unload a model as soon as nobody uses it" ("UnloadRequest") => JSON "Unloading";
        get "/openapi.json" "This document" => JSON "Document";
        get "/version" "The server's version" => JSON "Version";
    }
};
