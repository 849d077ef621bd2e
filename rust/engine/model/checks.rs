//! What must hold of a configuration before anything is computed with it.

use super::{ExpertsConfig, ModelConfig, RopeConfig, RopeScaling};

/// Far above every model there is; products of three of these fit in 64 bits.
const MAX_SIDE: usize = 1 << 20;
pub const MAX_LAYERS: usize = 4096;
const MAX_EXPERTS: usize = 1 << 10;

/// The first rule that `config` breaks, as a sentence.
pub fn broken_rule(config: &ModelConfig) -> Option<String> {
    let sides = [
        ("the vocabulary", config.vocab_size, MAX_SIDE * 16),
        ("the hidden size", config.hidden_size, MAX_SIDE),
        ("the feed-forward size", config.intermediate_size, MAX_SIDE),
        ("the number of heads", config.num_heads, MAX_SIDE),
        ("the number of key and value heads", config.num_kv_heads, MAX_SIDE),
        ("the head size", config.head_dim, MAX_SIDE),
        ("the number of layers", config.num_layers(), MAX_LAYERS),
        ("the context length", config.max_position, usize::MAX),
    ];
    if let Some((what, value, most)) = sides.into_iter().find(|&(_, value, most)| value == 0 || value > most) {
        return Some(format!("{what} is {value}; 1 to {most} can be run"));
    }
    if let Some(ExpertsConfig { count, per_token, .. }) = config.experts
        && !(1..=count.min(MAX_EXPERTS)).contains(&per_token)
    {
        return Some(format!("{per_token} of {count} experts for a token: up to {MAX_EXPERTS} can be run"));
    }
    if !config.num_heads.is_multiple_of(config.num_kv_heads) {
        let (heads, kv_heads) = (config.num_heads, config.num_kv_heads);
        return Some(format!("{heads} heads cannot share {kv_heads} key and value heads evenly"));
    }
    let numbers = [
        ("the norm's epsilon", config.norm_eps),
        ("the attention scale", config.attention_scale),
        ("the attention softcap", config.attention_softcap.unwrap_or(1.0)),
        ("the final softcap", config.final_softcap.unwrap_or(1.0)),
    ];
    not_positive(&numbers).or_else(|| config.ropes.iter().find_map(|rope| broken_rope_rule(config.head_dim, rope)))
}

fn broken_rope_rule(head_dim: usize, rope: &RopeConfig) -> Option<String> {
    if rope.dim == 0 || !rope.dim.is_multiple_of(2) || rope.dim > head_dim {
        return Some(format!("{} rotating dimensions in heads of {head_dim}: an even number is needed", rope.dim));
    }
    let broken = match &rope.scaling {
        RopeScaling::None => None,
        RopeScaling::Linear { factor } => not_positive(&[("the RoPE factor", *factor)]),
        RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position } => {
            if high <= low || *original_max_position == 0 {
                return Some("the low and high frequency factors of the RoPE scaling leave no room between".into());
            }
            not_positive(&[("the RoPE factor", *factor), ("the low frequency factor", *low)])
        }
        RopeScaling::PerFrequency { divisors, magnitude } => {
            if divisors.len() != rope.dim / 2 {
                return Some(format!("{} RoPE factors for {} frequencies", divisors.len(), rope.dim / 2));
            }
            let wrong = divisors.iter().find_map(|&divisor| not_positive(&[("a RoPE factor", divisor)]));
            wrong.or_else(|| not_positive(&[("the RoPE magnitude", *magnitude)]))
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, magnitude } => {
            if *original_max_position == 0 {
                return Some("YaRN needs the original context length".into());
            }
            let numbers = [("factor", *factor), ("beta_fast", *beta_fast), ("beta_slow", *beta_slow)];
            not_positive(&numbers).or_else(|| not_positive(&[("the RoPE magnitude", *magnitude)]))
        }
    };
    let theta = (!(rope.theta.is_finite() && rope.theta > 1.0)).then(|| format!("the RoPE base is {}", rope.theta));
    broken.or(theta)
}

fn not_positive(numbers: &[(&str, f32)]) -> Option<String> {
    let wrong = numbers.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0));
    wrong.map(|(what, value)| format!("{what} is {value}; it must be above 0"))
}
