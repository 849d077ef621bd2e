//! How long a model stays in memory after its last answer.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    Forever,
    /// Zero: it is unloaded as soon as it is idle.
    For(Duration),
}

impl KeepAlive {
    /// Whole or broken seconds; negative is for ever, as Ollama has it.
    fn from_secs(secs: f64) -> Result<Self, String> {
        match secs {
            secs if secs.is_nan() => Err("it is not a number".into()),
            secs if secs < 0.0 => Ok(Self::Forever),
            secs => Duration::try_from_secs_f64(secs).map(Self::For).map_err(|err| err.to_string()),
        }
    }
}

/// `5m`, `1h30m`, `90s`, `300` (seconds), `-1` (for ever), `0`.
impl FromStr for KeepAlive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not a time: write it like 5m, 1h30m, 90s, 0 or -1 (for ever)");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.is_empty() {
            return Err(bad());
        }
        let mut secs = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit_len = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
            let (unit, tail) = rest[digits..].split_at(unit_len);
            secs += number * unit_secs(unit).ok_or_else(bad)?;
            rest = tail;
        }
        Self::from_secs(if negative { -secs.max(1.0) } else { secs }).map_err(|_| bad())
    }
}

fn unit_secs(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "" | "s" => 1.0,
        "ms" => 1e-3,
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Secs(f64),
            Text(String),
        }
        let parsed = match Wire::deserialize(deserializer)? {
            Wire::Secs(secs) => Self::from_secs(secs),
            Wire::Text(text) => text.parse(),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollamas_spellings_are_read() {
        let secs = |secs| KeepAlive::For(Duration::from_secs_f64(secs));
        for (text, expected) in [
            ("5m", secs(300.0)),
            ("1h30m", secs(5400.0)),
            ("90s", secs(90.0)),
            ("1.5m", secs(90.0)),
            ("300", secs(300.0)),
            ("250ms", secs(0.25)),
            ("0", secs(0.0)),
            ("-1", KeepAlive::Forever),
            ("-1m", KeepAlive::Forever),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(serde_json::from_value::<KeepAlive>(text.into()).unwrap(), expected, "{text}");
        }
        assert_eq!(serde_json::from_str::<KeepAlive>("-1").unwrap(), KeepAlive::Forever);
        assert_eq!(serde_json::from_str::<KeepAlive>("60").unwrap(), secs(60.0));
        for text in ["", "-", "m", "5x", "five", "1..2s", "99999999999999999999999h"] {
            assert!(text.parse::<KeepAlive>().is_err(), "{text}");
        }
    }
}
