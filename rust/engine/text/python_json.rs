//! Values to JSON text, byte for byte as Python's `json.dumps` writes them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting of lists and objects; Python stops near a thousand.
const MAX_DEPTH: usize = 200;

/// Longest text: a value that contains itself many times over would never end.
const MAX_BYTES: usize = 16 << 20;

/// The arguments of `json.dumps`.
#[derive(Debug, Clone)]
pub(super) struct Style {
    pub(super) ensure_ascii: bool,
    pub(super) sort_keys: bool,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    /// What one level is indented by; None writes one line.
    pub(super) indent: Option<String>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            ensure_ascii: false,
            sort_keys: false,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            indent: None,
        }
    }
}

impl Style {
    /// One item per line. The comma loses its space unless separators are given.
    pub(super) fn indented(self, unit: String) -> Self {
        Self { indent: Some(unit), item_separator: ",".into(), ..self }
    }
}

pub(super) fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let mut writer = Writer { out: String::new(), style, depth: 0 };
    writer.value(value)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
    depth: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        if self.out.len() > MAX_BYTES {
            return Err(refuse(format!("JSON is longer than {MAX_BYTES} bytes")));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.out.push_str(&scalar(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value)?,
            ValueKind::Map => self.object(value)?,
            kind => return Err(refuse(format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(&mut self, list: &Value) -> Result<(), Error> {
        self.open('[')?;
        let mut empty = true;
        for item in list.try_iter()?.checked() {
            self.next(&mut empty);
            self.value(&item?)?;
        }
        self.close(']', empty);
        Ok(())
    }

    fn object(&mut self, object: &Value) -> Result<(), Error> {
        let mut keys = object.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
        if self.style.sort_keys {
            keys.sort();
        }
        self.open('{')?;
        let mut empty = true;
        for key in &keys {
            self.next(&mut empty);
            self.string(&key_text(key)?);
            self.out.push_str(&self.style.key_separator);
            self.value(&object.get_item(key)?)?;
        }
        self.close('}', empty);
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<(), Error> {
        self.out.push(bracket);
        self.depth += 1;
        match self.depth <= MAX_DEPTH {
            true => Ok(()),
            false => Err(refuse(format!("JSON is nested deeper than {MAX_DEPTH}"))),
        }
    }

    fn next(&mut self, first: &mut bool) {
        if !std::mem::replace(first, false) {
            self.out.push_str(&self.style.item_separator);
        }
        self.new_line();
    }

    fn close(&mut self, bracket: char, empty: bool) {
        self.depth -= 1;
        if !empty {
            self.new_line();
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self) {
        if let Some(unit) = &self.style.indent {
            self.out.push('\n');
            self.out.push_str(&unit.repeat(self.depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            write!(self.out, "\\u{unit:04x}").expect("a String takes all text");
        }
    }
}

fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => value.is_true().to_string(),
        _ if value.is_integer() => value.to_string(),
        _ => f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float),
    }
}

/// The shortest digits that read back as the same number, in Python's notation.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if number != 0.0 && !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// Python makes strings of the other scalars where they are keys.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => Ok(scalar(key)),
        kind => Err(refuse(format!("keys must be strings or numbers to become JSON, not {kind}"))),
    }
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
