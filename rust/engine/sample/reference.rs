//! The sampler as one would write it first: float64, whole sorts, a fresh copy of everything.

use super::SampleContext;
use crate::ids::TokenId;

/// A comparison closer than this could go either way in float32.
const CLOSE: f64 = 1e-5;

/// Logits after bias, minimum length and penalties.
pub fn processed(logits: &[f32], context: &SampleContext<'_>) -> Vec<f64> {
    let params = context.params;
    let count = |tokens: &[TokenId], id: usize| tokens.iter().filter(|&&t| t as usize == id).count();
    (0..logits.len())
        .map(|id| {
            let mut logit = f64::from(logits[id]);
            logit += params.logit_bias.iter().filter(|b| b.0 as usize == id).map(|b| f64::from(b.1)).sum::<f64>();
            let stops = context.eos.contains(&(id as u32)) || params.stop_token_ids.contains(&(id as u32));
            if stops && context.output.len() < params.min_tokens {
                return f64::NEG_INFINITY;
            }
            let in_output = count(context.output, id);
            if in_output + count(context.prompt, id) > 0 {
                let penalty = f64::from(params.repetition_penalty);
                logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
            logit -= in_output as f64 * f64::from(params.frequency_penalty);
            logit - if in_output > 0 { f64::from(params.presence_penalty) } else { 0.0 }
        })
        .collect()
}

/// The tokens that may be drawn, by id, with probabilities. None: rounding decides.
pub fn distribution(logits: &[f32], context: &SampleContext<'_>) -> Option<Vec<(TokenId, f64)>> {
    let params = context.params;
    let processed = processed(logits, context);
    let mut kept: Vec<(TokenId, f64)> =
        (0..).zip(processed.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let max = kept.first()?.1;
    for (_, x) in &mut kept {
        *x = ((*x - max) / f64::from(params.temperature)).exp();
    }
    if params.top_k > 0 {
        kept.truncate(params.top_k);
    }
    if params.typical_p < 1.0 {
        normalize(&mut kept);
        let entropy: f64 = -kept.iter().map(|(_, p)| if *p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>();
        let surprise = |p: f64| (-p.ln() - entropy).abs();
        kept.sort_by(|a, b| surprise(a.1).total_cmp(&surprise(b.1)).then(a.0.cmp(&b.0)));
        if kept.windows(2).any(|w| w[0].1 != w[1].1 && (surprise(w[0].1) - surprise(w[1].1)).abs() < CLOSE) {
            return None;
        }
        smallest_set(&mut kept, params.typical_p)?;
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    if params.top_p < 1.0 {
        normalize(&mut kept);
        smallest_set(&mut kept, params.top_p)?;
    }
    let least = f64::from(params.min_p) * kept[0].1;
    if params.min_p > 0.0 && kept.iter().any(|(_, p)| *p != kept[0].1 && (p - least).abs() < CLOSE * kept[0].1) {
        return None;
    }
    kept.retain(|(_, p)| *p >= least);
    normalize(&mut kept);
    kept.sort_by_key(|(id, _)| *id);
    Some(kept)
}

fn normalize(kept: &mut [(TokenId, f64)]) {
    let sum: f64 = kept.iter().map(|(_, p)| p).sum();
    kept.iter_mut().for_each(|(_, p)| *p /= sum);
}

fn smallest_set(kept: &mut Vec<(TokenId, f64)>, mass: f32) -> Option<()> {
    let mut sum = 0.0;
    for i in 0..kept.len() {
        sum += kept[i].1;
        if (sum - f64::from(mass)).abs() < CLOSE {
            return None;
        }
        if sum > f64::from(mass) {
            kept.truncate(i + 1);
            break;
        }
    }
    Some(())
}

/// Where the cumulated distribution passes `u`. None: rounding decides.
pub fn draw(distribution: &[(TokenId, f64)], u: f64) -> Option<TokenId> {
    let mut sum = 0.0;
    for &(id, p) in distribution {
        sum += p;
        if (sum - u).abs() < CLOSE {
            return None;
        }
        if sum > u {
            return Some(id);
        }
    }
    None
}
