//! A model's configuration from GGUF metadata.

use super::families::{self, Family, Pattern};
use super::{ExpertsConfig, LayerConfig, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Gguf, Value};

/// Keys that would change the mathematics, with the value that does not.
const REFUSED: &[(&str, f64)] = &[
    ("expert_shared_count", 0.0),
    ("expert_gating_func", 1.0),
    ("expert_weights_scale", 1.0),
    ("leading_dense_block_count", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attention.temperature_length", 0.0),
    ("embedding_scale", 0.0),
    ("residual_scale", 0.0),
    ("logit_scale", 0.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("rope.scaling.yarn_attn_factor", 1.0),
];

pub fn read(gguf: &Gguf) -> Result<(&'static Family, ModelConfig)> {
    let Some(arch) = gguf.get("general.architecture").and_then(Value::as_str) else {
        return Err(Error::corrupt(gguf.path(), "the metadata has no general.architecture"));
    };
    let meta = Meta { gguf, arch };
    let has_experts = meta.count("expert_count")?.is_some_and(|count| count > 0);
    let family = families::of_gguf(gguf.path(), arch, has_experts)?;
    if has_experts && family.experts.is_none() {
        return Err(meta.unsupported(&format!("{arch}.expert_count")));
    }
    meta.refuse_what_is_not_handled()?;
    Ok((family, meta.config(family)?))
}

/// The metadata below the architecture's name.
struct Meta<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl Meta<'_> {
    fn config(&self, family: &'static Family) -> Result<ModelConfig> {
        let hidden_size = self.need("embedding_length")?;
        let num_heads = self.need("attention.head_count")?;
        let head_dim = self.count("attention.key_length")?.unwrap_or(hidden_size / num_heads.max(1));
        self.check_value_length(head_dim)?;
        let num_layers = self.need("block_count")?;
        let max_position = self.need("context_length")?;
        let softcap =
            |key, default: Option<f32>| Ok::<_, Error>(self.number(key)?.or(default).filter(|&cap| cap != 0.0));
        let vocab_size = self.gguf.tensor("token_embd.weight")?.shape.first().copied().unwrap_or(0);
        Ok(ModelConfig {
            family: family.name,
            name: self.gguf.get("general.name").and_then(Value::as_str).unwrap_or(self.arch).into(),
            vocab_size,
            hidden_size,
            intermediate_size: match self.count("expert_feed_forward_length")?.filter(|_| family.experts.is_some()) {
                Some(of_an_expert) => of_an_expert,
                None => self.need("feed_forward_length")?,
            },
            experts: family.experts.map(|_| self.experts()).transpose()?,
            num_heads,
            num_kv_heads: self.count("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            max_position,
            norm_eps: self.need_number("attention.layer_norm_rms_epsilon")?,
            norm_weight_offset: 0.0,
            activation: family.activation,
            layers: self.layers(family, num_layers, max_position)?,
            ropes: self.ropes(family, head_dim, max_position)?,
            attention_scale: self.attention_scale(family, hidden_size, num_heads, head_dim, num_layers)?,
            attention_softcap: softcap("attn_logit_softcapping", family.softcaps.map(|caps| caps.attention))?,
            final_softcap: softcap("final_logit_softcapping", family.softcaps.map(|caps| caps.last))?,
            embedding_scale: family.scaled_embedding.then(|| (hidden_size as f32).sqrt()),
            qkv_bias: family.qkv_bias,
            qk_norm: family.qk_norm,
            post_norms: family.post_norms,
            tie_embeddings: !self.gguf.tensor_names().contains(&"output.weight"),
        })
    }

    /// Shares always sum to 1: no key of these architectures says otherwise.
    fn experts(&self) -> Result<ExpertsConfig> {
        let (count, per_token) = (self.need("expert_count")?, self.need("expert_used_count")?);
        Ok(ExpertsConfig { count, per_token, normalized: true })
    }

    fn layers(&self, family: &Family, num_layers: usize, max_position: usize) -> Result<Vec<LayerConfig>> {
        let window = self.count("attention.sliding_window")?.or(family.gguf_window);
        let window = window.filter(|&window| window > 0 && window < max_position);
        let local_rope = usize::from(family.local_theta.is_some());
        let layer = |slides: bool| match window {
            Some(_) if slides => LayerConfig { window, rope: local_rope },
            // A window longer than the context hides nothing, but the layer keeps its own RoPE.
            _ => LayerConfig { window: None, rope: if slides { local_rope } else { 0 } },
        };
        // A layer has tensors, so a count beyond theirs is wrong: it is cut for memory's sake, and a tensor is found missing.
        let num_layers = num_layers.min(self.gguf.tensor_names().len());
        Ok((0..num_layers).map(self.slides(family)?).map(layer).collect())
    }

    /// Whether a layer has the sliding window.
    fn slides(&self, family: &Family) -> Result<Box<dyn Fn(usize) -> bool + '_>> {
        let key = "attention.sliding_window_pattern";
        if let Some(Value::Bools(slides)) = self.get(key) {
            return Ok(Box::new(|layer| slides.get(layer).copied().unwrap_or(false)));
        }
        let period = match (self.count(key)?, family.pattern) {
            (Some(period), _) | (None, Pattern::OneFullIn(period)) => period,
            (None, Pattern::Every | Pattern::FromLayer) => 0,
        };
        Ok(Box::new(move |layer| period == 0 || (layer + 1) % period != 0))
    }

    fn ropes(&self, family: &Family, head_dim: usize, max_position: usize) -> Result<Vec<RopeConfig>> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        let dim = self.count("rope.dimension_count")?.unwrap_or(head_dim);
        let mut ropes = vec![RopeConfig { theta, dim, scaling: self.scaling(max_position)? }];
        if let Some(local_theta) = family.local_theta {
            let theta = self.number("rope.freq_base_swa")?.unwrap_or(local_theta);
            ropes.push(RopeConfig { theta, dim, scaling: RopeScaling::None });
        }
        Ok(ropes)
    }

    fn scaling(&self, max_position: usize) -> Result<RopeScaling> {
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => factor,
            None => self.number("rope.scale_linear")?.unwrap_or(1.0),
        };
        let kind = self.text("rope.scaling.type")?.unwrap_or("linear");
        let original = self.count("rope.scaling.original_context_length")?.unwrap_or(max_position);
        let magnitude = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        if let Some(divisors) = self.divisors(original, max_position)? {
            if kind == "yarn" {
                return Err(self.unsupported("YaRN together with RoPE frequency factors"));
            }
            let factor = if kind == "linear" { factor } else { 1.0 };
            let divisors = divisors.into_iter().map(|divisor| divisor * factor).collect();
            return Ok(RopeScaling::PerFrequency { divisors, magnitude });
        }
        match kind {
            "linear" if factor != 1.0 && factor != 0.0 => Ok(RopeScaling::Linear { factor }),
            "none" | "linear" => Ok(RopeScaling::None),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original_max_position: original,
                magnitude: magnitude * (1.0 + 0.1 * factor.ln().max(0.0)),
            }),
            _ => Err(self.unsupported(&format!("the RoPE scaling '{kind}'"))),
        }
    }

    /// Divisors of the RoPE frequencies, which GGUF keeps as a tensor: Llama 3's, or Phi-3's for short or long contexts.
    fn divisors(&self, original: usize, max_position: usize) -> Result<Option<Vec<f32>>> {
        let long = max_position > original;
        let names = ["rope_freqs.weight", if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" }];
        let Some(name) = names.into_iter().find(|name| self.gguf.tensor_names().contains(name)) else {
            return Ok(None);
        };
        self.gguf.floats(name).map(Some)
    }

    fn attention_scale(
        &self,
        family: &Family,
        hidden_size: usize,
        num_heads: usize,
        head_dim: usize,
        num_layers: usize,
    ) -> Result<f32> {
        if let Some(scale) = self.number("attention.scale")?.filter(|&scale| scale != 0.0) {
            return Ok(scale);
        }
        let wide = family.wide_scale_layers == Some(num_layers);
        let width = if wide { hidden_size as f32 / num_heads as f32 } else { head_dim as f32 };
        Ok(1.0 / width.sqrt())
    }

    fn check_value_length(&self, head_dim: usize) -> Result<()> {
        match self.count("attention.value_length")? {
            Some(length) if length != head_dim => {
                Err(self.unsupported(&format!("value heads of {length} beside key heads of {head_dim}")))
            }
            _ => Ok(()),
        }
    }

    fn refuse_what_is_not_handled(&self) -> Result<()> {
        for &(key, neutral) in REFUSED {
            if self.number(key)?.is_some_and(|value| f64::from(value) != neutral) {
                return Err(self.unsupported(&format!("{}.{key}", self.arch)));
            }
        }
        if self.get("attention.causal").and_then(Value::as_bool) == Some(false) {
            return Err(self.unsupported("attention that is not causal"));
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.gguf.get(&format!("{}.{key}", self.arch))
    }

    fn need(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn need_number(&self, key: &str) -> Result<f32> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    /// A count; files may give one per layer, which must then be equal.
    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let single = match value {
            Value::Ints(all) => match all.iter().all(|one| Some(one) == all.first()) {
                true => all.first().and_then(|&one| u64::try_from(one).ok()),
                false => return Err(self.unsupported(&format!("{} that differs between layers", key))),
            },
            one => one.as_u64(),
        };
        let count = single.and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| self.wrong_type(key, "a count"))
    }

    fn number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(|number| Some(number as f32)).ok_or_else(|| self.wrong_type(key, "a number"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong_type(key, "text"))
    }

    fn missing(&self, key: &str) -> Error {
        Error::corrupt(self.gguf.path(), format!("the metadata has no {}.{key}", self.arch))
    }

    fn wrong_type(&self, key: &str, wanted: &str) -> Error {
        Error::corrupt(self.gguf.path(), format!("{}.{key} in the metadata is not {wanted}", self.arch))
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(self.gguf.path(), format!("the model uses {what}, which Ferrule cannot run yet"))
    }
}
