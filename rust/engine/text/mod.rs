//! Text in, text out: tokenizer, chat template, and the way back.

mod bpe;
mod chat_template;
mod clock;
mod detokenize;
pub(crate) mod gguf_export;
mod gguf_tokenizer;
pub(crate) mod hf_export;
mod hf_tokenizer;
mod pieces;
mod pre_tokenizers;
mod python_json;
mod python_methods;
mod segmenter;
mod stop;
mod template_helpers;
mod template_source;
mod tokenizer;
mod utf8;

pub use chat_template::ChatTemplate;
pub use detokenize::Detokenizer;
pub use stop::{StopHit, StopStrings};
pub use tokenizer::Tokenizer;
