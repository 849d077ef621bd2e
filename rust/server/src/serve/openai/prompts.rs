//! The four ways to write prompts.

use ferrule_engine::{Prompt, TokenId};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string, an array of strings, an array of token ids, or an array of those")]
pub enum Prompts {
    Text(String),
    Tokens(Vec<TokenId>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<TokenId>>),
}

impl Prompts {
    pub fn list(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}
