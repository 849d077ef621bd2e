//! The functions, filters and methods that chat templates find in Transformers and Jinja, beyond minijinja's own.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::{filters, globals};

use super::{clock, python_json, python_methods};

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(pub(super) String);

pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_function("joiner", globals::joiner);
    environment.add_filter("wordcount", filters::wordcount);
    environment.add_filter("center", python_methods::center);
    environment.add_filter("truncate", python_methods::truncate);
    environment.set_unknown_method_callback(python_methods::call);
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
}

/// The local time, as C's `strftime` formats it.
fn strftime_now(format: &str) -> Result<String, Error> {
    clock::format_now(format)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot format {format:?}")))
}

/// Python's `json.dumps`, with its arguments; unlike Jinja's own filter it escapes nothing for HTML.
fn tojson(state: &State, value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let mut style = python_json::Style {
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ..Default::default()
    };
    if let Some(indent) = arguments.get::<Option<Value>>("indent")?.filter(|v| !v.is_none()) {
        style = style.indented(indent_unit(&indent)?);
    }
    if let Some((item, key)) = arguments.get::<Option<Value>>("separators")?.and_then(|v| two_strings(&v)) {
        (style.item_separator, style.key_separator) = (item, key);
    }
    arguments.assert_all_used()?;
    let json = python_json::dumps(value, &style)?;
    state.consume_fuel(json.len() as u64 / 16)?;
    Ok(Value::from(json))
}

/// One level of indentation: Python takes a number of spaces, or the string itself.
fn indent_unit(indent: &Value) -> Result<String, Error> {
    const MAX_INDENT: i64 = 64;
    match (indent.kind(), indent.as_str()) {
        (_, Some(unit)) => Ok(unit.to_owned()),
        (ValueKind::Bool, _) => Ok(" ".repeat(usize::from(indent.is_true()))),
        _ => Ok(" ".repeat(i64::try_from(indent.clone())?.clamp(0, MAX_INDENT) as usize)),
    }
}

fn two_strings(value: &Value) -> Option<(String, String)> {
    let strings: Vec<String> = value.try_iter().ok()?.filter_map(|v| v.as_str().map(str::to_owned)).collect();
    <[String; 2]>::try_from(strings).ok().map(Into::into)
}
