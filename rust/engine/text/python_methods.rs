//! Python's string methods and Jinja's text filters that minijinja lacks, or does not bound.

use minijinja::value::{Kwargs, Rest, Tuple, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// What one item of a list takes, roughly.
const VALUE_BYTES: usize = 32;

/// `value.method(args)` for a method that minijinja does not have itself.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, method, args) };
    match method {
        "removeprefix" => affix(args, |prefix| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => affix(args, |suffix| text.strip_suffix(suffix).unwrap_or(text).into()),
        "partition" => affix(args, |separator| partition(text, separator, text.find(separator), text.len())),
        "rpartition" => affix(args, |separator| partition(text, separator, text.rfind(separator), 0)),
        "split" => split(state, text, args, Side::Left),
        "rsplit" => split(state, text, args, Side::Right),
        "center" | "ljust" | "rjust" => pad(state, text, method, args),
        "replace" | "join" | "format" | "splitlines" => {
            charge(state, longest_result(text, method, args))?;
            unknown_method_callback(state, value, method, args)
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// Jinja's `center(width=80)`.
pub(super) fn center(state: &State, text: String, width: Option<usize>, arguments: Kwargs) -> Result<String, Error> {
    let width = width.or(arguments.get("width")?).unwrap_or(80);
    arguments.assert_all_used()?;
    padded(state, &text, width, ' ', "center")
}

/// Jinja's `truncate(length=255, killwords=false, end='...', leeway=5)`.
pub(super) fn truncate(text: String, positional: Rest<Value>, keywords: Kwargs) -> Result<String, Error> {
    let length = argument(&positional, &keywords, 0, "length")?.map_or(Ok(255), usize::try_from)?;
    let cut_words = argument(&positional, &keywords, 1, "killwords")?.is_some_and(|v| v.is_true());
    let end = argument(&positional, &keywords, 2, "end")?.map_or("...".to_owned(), |v| v.to_string());
    let leeway = argument(&positional, &keywords, 3, "leeway")?.map_or(Ok(5), usize::try_from)?;
    keywords.assert_all_used()?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(refuse(format!("truncate: the end '{end}' is longer than {length}")));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept = text.char_indices().nth(kept).map_or(&*text, |(at, _)| &text[..at]);
    let kept = if cut_words { kept } else { kept.rsplit_once(' ').map_or(kept, |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

/// An argument by its position or its name; none stands for the default.
fn argument(positional: &[Value], keywords: &Kwargs, at: usize, name: &str) -> Result<Option<Value>, Error> {
    match positional.get(at) {
        Some(value) => Ok(Some(value.clone()).filter(|v| !v.is_none())),
        None => keywords.get(name),
    }
}

/// A method with one string argument.
fn affix(args: &[Value], method: impl FnOnce(&str) -> Value) -> Result<Value, Error> {
    let (argument,): (&str,) = from_args(args)?;
    Ok(method(argument))
}

/// The text before, at and after a separator that was `found`; all of it on one side of `otherwise` if not.
fn partition(text: &str, separator: &str, found: Option<usize>, otherwise: usize) -> Value {
    let (at, len) = found.map_or((otherwise, 0), |at| (at, separator.len()));
    let parts = [&text[..at], &text[at..at + len], &text[at + len..]];
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// Where a limited number of cuts starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// `split(sep=None, maxsplit=-1)`, and `rsplit`.
fn split(state: &State, text: &str, args: &[Value], side: Side) -> Result<Value, Error> {
    let (positional, keywords): (&[Value], Kwargs) = from_args(args)?;
    let separator = argument(positional, &keywords, 0, "sep")?;
    let most = argument(positional, &keywords, 1, "maxsplit")?.map_or(Ok(-1), i64::try_from)?;
    keywords.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match separator.as_ref().map(Value::as_str) {
        None => split_at_spaces(text, most, side),
        Some(None) => return Err(refuse("the separator of split is not a string".into())),
        Some(Some("")) => return Err(refuse("the separator of split is empty".into())),
        Some(Some(separator)) if side == Side::Left => text.splitn(most.saturating_add(1), separator).collect(),
        Some(Some(separator)) => text.rsplitn(most.saturating_add(1), separator).collect(),
    };
    charge(state, parts.len() * VALUE_BYTES)?;
    if side == Side::Right {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

/// The words of a text in the order in which they are met; after `most` cuts, the rest with its inner space.
fn split_at_spaces(text: &str, most: usize, side: Side) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if side == Side::Left { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) };
        let cut = match side {
            _ if parts.len() == most => None,
            Side::Left => rest.split_once(is_space),
            Side::Right => rest.rsplit_once(is_space).map(|(before, word)| (word, before)),
        };
        match cut {
            Some((word, after)) => {
                parts.push(word);
                rest = after;
            }
            None => {
                parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
                return parts;
            }
        }
    }
}

/// Python counts the four separators of ASCII as white space, Unicode does not.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `center(width, fillchar=' ')`, and its one-sided twins.
fn pad(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    padded(state, text, width, fill.unwrap_or(' '), method).map(Value::from)
}

fn padded(state: &State, text: &str, width: usize, fill: char, method: &str) -> Result<String, Error> {
    let missing = width.saturating_sub(text.chars().count());
    charge(state, missing.saturating_mul(fill.len_utf8()))?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // CPython rounds in favour of the left only if both numbers are odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count);
    Ok(fill(left).chain(text.chars()).chain(fill(missing - left)).collect())
}

/// A bound on the bytes that a method adds to what it is given.
fn longest_result(text: &str, method: &str, args: &[Value]) -> usize {
    let string = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
    let added = match method {
        "replace" => text.matches(string(0)).count().saturating_mul(string(1).len()),
        "join" => args.first().and_then(Value::len).unwrap_or(0).saturating_mul(text.len()),
        "splitlines" => text.matches('\n').count() * VALUE_BYTES,
        // Every number in a format may be a width.
        _ => {
            let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
            numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add)
        }
    };
    text.len().saturating_add(added)
}

/// Pays for text before it is made.
fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 16)
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
