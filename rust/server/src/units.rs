//! Sizes and rates as people write and read them.

/// Bytes from `512MB`, `2GiB`, `1.5g` or a plain number. KB, MB, GB count by 1000; KiB, MiB, GiB by 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size: write it like 512MB, 2GiB or 1000000");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    let bytes = number * factor;
    match bytes.is_finite() && bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false => Err(bad()),
    }
}

/// Three significant digits and a decimal unit: `98.4 MB`.
pub fn bytes(count: u64) -> String {
    scaled(count as f64, &["B", "KB", "MB", "GB", "TB"])
}

/// `134.5 M` parameters.
pub fn count(count: u64) -> String {
    scaled(count as f64, &["", "K", "M", "B", "T"]).trim_end().to_owned()
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value} {}", units[0]),
        _ => format!("{} {}", three_digits(scaled), units[unit]),
    }
}

/// A number below 1000 with three significant digits, larger ones without a fraction.
pub fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in
            [("0", 0), ("512MB", 512_000_000), ("2GiB", 2 << 30), ("1.5k", 1500), ("7 b", 7), ("1mib", 1 << 20)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "1XB", "-1", "1e400", "1..2", "99999999999999TB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_three_digits() {
        for (count, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (98_362_432, "98.4 MB"), (999_600, "1.00 MB")]
        {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(count(134_515_008), "135 M");
    }
}
