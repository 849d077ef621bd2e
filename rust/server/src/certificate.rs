//! A certificate of quality, for people.

use ferrule_engine::quantize::kquants::mixture::Mixture;
use ferrule_engine::quantize::{Certificate, Quality};

use crate::units;

pub fn lines(certificate: &Certificate) -> Vec<(&'static str, String)> {
    let Certificate { version, scheme, group_size, source, calibration, quality, source_bytes, bytes } = certificate;
    let groups = match group_size {
        Some(group) => format!(" in groups of {group}"),
        None if Mixture::named(scheme).is_some() => String::new(),
        None => " in whole rows".into(),
    };
    let (from, to) = (units::bytes(*source_bytes), units::bytes(*bytes));
    let mut lines = vec![
        ("made", format!("{scheme}{groups}, of {source}, by ferrule {version}")),
        ("size", format!("{to}; the source has {from}")),
    ];
    if let Some(text) = calibration {
        lines.push(("calibration", format!("{} tokens of {}", text.tokens, text.name)));
    }
    if let Some(quality) = quality {
        lines.extend(measured(quality));
    }
    lines
}

fn measured(quality: &Quality) -> [(&'static str, String); 4] {
    let Quality { text, window, source_perplexity, perplexity, mean_kl, same_top } = quality;
    let loss = 100.0 * quality.loss();
    [
        ("measured on", format!("{} tokens of {}, in windows of {window}", text.tokens, text.name)),
        ("perplexity", format!("{perplexity:.4}; the source has {source_perplexity:.4} ({loss:+.2} %)")),
        ("mean KL", format!("{mean_kl:.5} nats from the source")),
        ("same top", format!("{:.2} % of the likeliest tokens", 100.0 * same_top)),
    ]
}
