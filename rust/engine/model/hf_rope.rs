//! RoPE settings of config.json: `rope_theta` and `rope_scaling` (Transformers 4), `rope_parameters` (Transformers 5).

use super::families::Family;
use super::fields::Fields;
use super::{RopeConfig, RopeScaling};
use crate::error::Result;

/// Keys whose meaning is known; others might change the angles.
const KNOWN: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "truncate",
    "type",
];

/// Under which `rope_parameters` may be nested.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// The ropes of a model: one, or the full layers' and the sliding layers'.
pub fn read(config: &Fields<'_>, family: &Family, head_dim: usize, max_position: usize) -> Result<Vec<RopeConfig>> {
    let mut full = config.object("rope_parameters")?.filter(|given| given.keys().next().is_some());
    let mut local = None;
    if let Some(given) = full.take_if(|given| LAYER_TYPES.iter().any(|kind| given.get(kind).is_some())) {
        if family.local_theta.is_none() {
            return Err(config.unsupported("RoPE settings that differ between layers"));
        }
        [full, local] = [given.object(LAYER_TYPES[0])?, given.object(LAYER_TYPES[1])?];
    }
    let full = full.or(config.object("rope_scaling")?);
    let rope = |params, theta| Rope { config, family, params, head_dim, max_position }.read(theta);
    let mut ropes = vec![rope(full, config.number("rope_theta")?.unwrap_or(10_000.0))?];
    if let Some(theta) = family.local_theta {
        ropes.push(rope(local, config.number("rope_local_base_freq")?.unwrap_or(theta))?);
    }
    Ok(ropes)
}

/// One object of RoPE settings and what it refers to.
struct Rope<'a> {
    config: &'a Fields<'a>,
    family: &'a Family,
    params: Option<Fields<'a>>,
    head_dim: usize,
    max_position: usize,
}

impl Rope<'_> {
    fn read(self, theta: f32) -> Result<RopeConfig> {
        let Some(params) = &self.params else {
            return Ok(RopeConfig { theta, dim: self.dim(None)?, scaling: RopeScaling::None });
        };
        if let Some(key) = params.keys().find(|key| !KNOWN.contains(key)) {
            return Err(params.unsupported(&format!("the RoPE setting '{key}'")));
        }
        let theta = params.number("rope_theta")?.unwrap_or(theta);
        let scaling = self.scaling(params)?;
        Ok(RopeConfig { theta, dim: self.dim(params.number("partial_rotary_factor")?)?, scaling })
    }

    fn dim(&self, partial: Option<f32>) -> Result<usize> {
        let part = match partial {
            Some(part) => part,
            None => self.config.number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        Ok((self.head_dim as f64 * f64::from(part)) as usize)
    }

    fn scaling(&self, params: &Fields<'_>) -> Result<RopeScaling> {
        let kind = params.text("rope_type")?.or(params.text("type")?).unwrap_or("default".into());
        let need = |key: &str| params.need(key, params.number(key)?);
        match kind.as_str() {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position: self.original_max_position(params)?,
            }),
            // Early Phi-3 files call it by other names.
            "longrope" => self.longrope(params),
            "su" | "yarn" if self.family.name == "phi3" => self.longrope(params),
            "yarn" => self.yarn(params),
            other => Err(params.unsupported(&format!("the RoPE type '{other}'"))),
        }
    }

    /// The model's own field comes before the scaling's, as in Transformers.
    fn original_max_position(&self, params: &Fields<'_>) -> Result<usize> {
        let key = "original_max_position_embeddings";
        Ok(self.config.count(key)?.or(params.count(key)?).unwrap_or(self.max_position))
    }

    /// Ding et al. 2024. A model that may go beyond its original context uses the long factors throughout.
    fn longrope(&self, params: &Fields<'_>) -> Result<RopeScaling> {
        let original = self.original_max_position(params)?;
        let key = if self.max_position > original { "long_factor" } else { "short_factor" };
        let divisors = params.need(key, params.numbers(key)?)?;
        let stretch = params.number("factor")?.unwrap_or(self.max_position as f32 / original as f32);
        let implied = if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f32).ln()).sqrt() };
        Ok(RopeScaling::PerFrequency { divisors, magnitude: params.number("attention_factor")?.unwrap_or(implied) })
    }

    fn yarn(&self, params: &Fields<'_>) -> Result<RopeScaling> {
        if params.get("truncate").is_some() && !params.flag("truncate")? {
            return Err(params.unsupported("YaRN without truncation"));
        }
        let original_max_position = self.original_max_position(params)?;
        let factor = params.number("factor")?.unwrap_or(self.max_position as f32 / original_max_position as f32);
        let growth = |mscale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let set = |key: &str| Ok::<_, crate::Error>(params.number(key)?.filter(|&mscale| mscale != 0.0));
        let implied = match (set("mscale")?, set("mscale_all_dim")?) {
            (Some(mscale), Some(all_dim)) => growth(mscale) / growth(all_dim),
            _ => growth(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: set("beta_fast")?.unwrap_or(32.0),
            beta_slow: set("beta_slow")?.unwrap_or(1.0),
            original_max_position,
            magnitude: params.number("attention_factor")?.unwrap_or(implied),
        })
    }
}
