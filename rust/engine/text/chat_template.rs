//! A conversation to a prompt, byte for byte as Transformers renders it.

use std::error::Error as _;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};

use super::template_helpers::{self, Refusal};
use crate::error::{Error, Result};
use crate::request::ChatMessage;

/// Work that one rendering may do (one unit: an instruction, or 64 bytes of text): a quarter of a second, and
/// 256 MB. Thousands of messages take less.
const FUEL: u64 = 4_000_000;

/// Largest template, several times what models come with.
const MAX_SOURCE_BYTES: usize = 128 << 10;

/// Minijinja's compiler recurses once per operator of an expression, so the longest chain that fits in
/// a template decides its stack. Only the pages that it touches are ever memory.
const COMPILER_STACK_BYTES: usize = 512 << 20;

/// Stands behind the text that is to be continued, to be found again. The space tells whether the template trims.
const OPEN_END: &str = "[the text goes on here] ";

/// What errors call it.
const NAME: &str = "chat template";

/// A compiled Jinja template with its model's special tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// `bos_token`, `eos_token` and other special tokens are visible to the template under those names.
    pub fn new(source: &str, special_tokens: &[(String, String)]) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let what = format!("it has {} bytes; at most {MAX_SOURCE_BYTES} are compiled", source.len());
            return Err(Error::corrupt(Path::new(NAME), what));
        }
        let mut environment = environment()?;
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        let environment = std::thread::scope(|scope| {
            let compiler =
                std::thread::Builder::new().stack_size(COMPILER_STACK_BYTES).spawn_scoped(scope, move || {
                    environment.add_template_owned(NAME, open_generation_blocks(source)).map(|()| environment)
                });
            compiler.map(|thread| thread.join().expect("minijinja's compiler does not panic"))
        });
        match environment {
            Ok(compiled) => Ok(Self { environment: compiled.map_err(broken)? }),
            Err(e) => Err(Error::OutOfMemory(format!("no thread to compile the chat template: {e}"))),
        }
    }

    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        self.render_values(Value::from(Serde(messages)), add_generation_prompt)
    }

    /// Up to the end of the last message's text, as with Transformers' `continue_final_message`: what a model says
    /// next goes on with it.
    pub fn render_open(&self, messages: &[ChatMessage]) -> Result<String> {
        let refuse = |why| Err(Error::InvalidRequest(format!("the last message cannot be continued: {why}")));
        let mut messages = messages.to_vec();
        let Some(last) = messages.last_mut() else { return refuse("there is none") };
        let text = last.content.trim().to_owned();
        last.content += OPEN_END;
        let mut rendered = self.render(&messages, false)?;
        let Some(end) = rendered.rfind(OPEN_END.trim_end()).filter(|_| rendered.contains(&text)) else {
            return refuse("the model's chat template changes it");
        };
        let is_trimmed = !rendered[end..].starts_with(OPEN_END);
        rendered.truncate(if is_trimmed { rendered[..end].trim_end().len() } else { end });
        Ok(rendered)
    }

    /// `messages` may carry more than role and content.
    fn render_values(&self, messages: Value, add_generation_prompt: bool) -> Result<String> {
        let variables = context! {
            messages,
            add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        self.environment.get_template(NAME).and_then(|t| t.render(variables)).map_err(failed)
    }
}

/// Jinja as Transformers sets it up, with a limit on the work of one rendering.
fn environment() -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let mut environment = Environment::new();
    environment.set_syntax(syntax.map_err(|e| Error::Internal(format!("Jinja's syntax: {e}")))?);
    environment.set_fuel(Some(FUEL));
    template_helpers::install(&mut environment);
    Ok(environment)
}

/// The template itself does not compile.
fn broken(error: minijinja::Error) -> Error {
    Error::corrupt(Path::new(NAME), sentence(&error))
}

/// A rendering failed: because the template refuses these messages, or because it is broken.
fn failed(error: minijinja::Error) -> Error {
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(Refusal(why)) = source.downcast_ref() {
            return Error::InvalidRequest(format!("the model's chat template refuses the messages: {why}"));
        }
        cause = source.source();
    }
    broken(error)
}

fn sentence(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        _ if error.kind() == ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps to render"),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    error.line().map_or(what.clone(), |line| format!("{what} (line {line})"))
}

/// `{% generation %}` marks what an assistant said, for training; to render, it is a scope and nothing else.
fn open_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let len = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(len);
        match tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replace("generation", "with")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endwith")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        ChatTemplate::new(source, &[])?.render(&[ChatMessage::new("user", "hi")], true)
    }

    #[test]
    fn a_refusal_is_the_callers_and_carries_the_templates_words() {
        let error = render("{{ raise_exception('no system role') }}").unwrap_err();
        assert!(matches!(&error, Error::InvalidRequest(what) if what.ends_with("no system role")), "{error}");
        let error = render("{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}").unwrap_err();
        assert!(matches!(&error, Error::InvalidRequest(what) if what.ends_with("deep")), "{error}");
    }

    #[test]
    fn broken_and_endless_templates_are_the_models() {
        for source in [
            "{% for %}",
            "{{ messages[0].content.nope() }}",
            "{{ 1 | nope }}",
            "{{ undefined.attribute }}",
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ 'x' * 1000000000000 }}",
        ] {
            let error = render(source).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{source}: {error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn only_what_a_template_keeps_can_be_continued() {
        let messages = [ChatMessage::new("assistant", "so far")];
        for source in ["", "{{ messages[0].content[:6] }}", "{{ messages[0].content[6:] }}"] {
            let error = ChatTemplate::new(source, &[]).unwrap().render_open(&messages).unwrap_err();
            assert!(matches!(&error, Error::InvalidRequest(what) if what.contains("changes it")), "{error}");
        }
        let template = ChatTemplate::new("{{ messages[0].content }}, done", &[]).unwrap();
        assert_eq!(template.render_open(&messages).unwrap(), "so far");
        assert!(matches!(template.render_open(&[]), Err(Error::InvalidRequest(_))));
    }

    #[test]
    fn generation_blocks_leave_their_text() {
        let source = "a\n{%- generation -%}\n {% set x = 1 %}b{{ x }}{% endgeneration %}{{ x is defined }}";
        assert_eq!(render(source).unwrap(), "ab1False");
    }
}
