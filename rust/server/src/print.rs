//! What people and scripts get to see.

use std::io::{self, IsTerminal, Write};

use crate::failure::Result;

/// One JSON object on a line of its own.
pub fn json(value: &serde_json::Value) -> Result {
    line(&value.to_string())
}

pub fn line(text: &str) -> Result {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Columns as wide as their widest cell; `right` names those that are numbers.
pub fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> Result {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let aligned = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.enumerate().map(|(i, cell)| match right.contains(&i) {
            true => format!("{cell:>width$}", width = widths[i]),
            false => format!("{cell:<width$}", width = widths[i]),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    line(&aligned(&mut header.iter().copied()))?;
    rows.iter().try_for_each(|row| line(&aligned(&mut row.iter().map(String::as_str))))
}

/// `label: value` lines, the values aligned.
pub fn fields(fields: &[(&str, String)]) -> Result {
    let width = fields.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    fields.iter().try_for_each(|(label, value)| line(&format!("{label:<width$}  {value}")))
}

/// A remark on stderr, dim where colour is welcome.
pub fn note(text: &str) {
    match has_colour() {
        true => eprintln!("\x1b[2m{text}\x1b[0m"),
        false => eprintln!("{text}"),
    }
}

fn has_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Asks on the terminal; anything but yes is no.
pub fn confirm(question: &str) -> Result<bool> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
