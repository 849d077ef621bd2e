//! Text in, text out: tokenizer, chat template, and the way back.

mod chat_template;
mod detokenize;
mod stop;
mod tokenizer;

pub use chat_template::ChatTemplate;
pub use detokenize::Detokenizer;
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
