//! Text in and text out against references that Ferrule did not write.

mod gguf_file;
mod hostile;
mod hostile_templates;
mod real_models;
mod templates;
mod tokenizers;
