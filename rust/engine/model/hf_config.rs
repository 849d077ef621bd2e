//! A model's configuration from a Hugging Face folder's config.json, in the style of Transformers 4 and 5.

use std::path::Path;

use serde_json::Value;

use super::families::{self, ExpertNames, Family, Pattern};
use super::fields::Fields;
use super::{Activation, ExpertsConfig, LayerConfig, ModelConfig, hf_rope};
use crate::error::{Error, Result};

/// Fields that would change the mathematics when they are set.
const REFUSED: &[&str] = &[
    "attention_bias",
    "attention_multiplier",
    "clip_qkv",
    "decoder_sparse_step",
    "embedding_multiplier",
    "logits_scaling",
    "mlp_bias",
    "mlp_only_layers",
    "no_rope_layers",
    "residual_multiplier",
    "use_bidirectional_attention",
    "use_qk_norm",
];

/// Those of families without experts.
const EXPERTS: &[&str] = &["num_experts", "num_local_experts"];

/// What config.json says.
pub struct HfConfig {
    pub family: &'static Family,
    pub model: ModelConfig,
    /// How the matrices are quantized: `weights::GroupedDir` reads it.
    pub quantization: Option<Value>,
}

/// The vocabulary's size and tying are settled by the tensors: see `registry::open`.
pub fn read(dir: &Path) -> Result<HfConfig> {
    let path = dir.join("config.json");
    if !path.is_file() {
        return Err(Error::ModelNotFound(format!("{} is no model: it has no config.json", dir.display())));
    }
    let root = Fields::read(&path)?;
    let model_type = root.need("model_type", root.text("model_type")?)?;
    let family = families::of_config(&path, &model_type)?;
    refuse_what_is_not_handled(&root, family)?;
    let quantization = root.get("quantization_config").or(root.get("compression_config")).cloned();
    // Multimodal checkpoints keep the language model's fields in an object of their own.
    let fields = root.object("text_config")?.unwrap_or(root).or_defaults(family.defaults);
    refuse_what_is_not_handled(&fields, family)?;
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
    Ok(HfConfig { family, model: config(&fields, family, name)?, quantization })
}

fn config(fields: &Fields<'_>, family: &Family, name: String) -> Result<ModelConfig> {
    let need = |key: &str| fields.need(key, fields.count(key)?);
    let hidden_size = need("hidden_size")?;
    let num_heads = need("num_attention_heads")?;
    let head_dim = fields.count("head_dim")?.unwrap_or(hidden_size / num_heads.max(1));
    let max_position = need("max_position_embeddings")?;
    let scale_of = fields.number("query_pre_attn_scalar")?.unwrap_or(head_dim as f32);
    Ok(ModelConfig {
        family: family.name,
        name,
        vocab_size: 0,
        hidden_size,
        intermediate_size: need(family.experts.map_or("intermediate_size", |names| names.size))?,
        experts: family.experts.map(|names| experts(fields, names)).transpose()?,
        num_heads,
        num_kv_heads: fields.count("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        max_position,
        norm_eps: fields.need("rms_norm_eps", fields.number("rms_norm_eps")?)?,
        norm_weight_offset: family.norm_offset,
        activation: activation(fields)?,
        layers: layers(fields, family, max_position)?,
        ropes: hf_rope::read(fields, family, head_dim, max_position)?,
        attention_scale: 1.0 / scale_of.sqrt(),
        attention_softcap: fields.number("attn_logit_softcapping")?,
        final_softcap: fields.number("final_logit_softcapping")?,
        embedding_scale: family.scaled_embedding.then(|| (hidden_size as f32).sqrt()),
        qkv_bias: family.qkv_bias,
        qk_norm: family.qk_norm,
        post_norms: family.post_norms,
        tie_embeddings: fields.flag("tie_word_embeddings")?,
    })
}

fn experts(fields: &Fields<'_>, names: ExpertNames) -> Result<ExpertsConfig> {
    let count = fields.count("num_experts")?.or(fields.count("num_local_experts")?);
    Ok(ExpertsConfig {
        count: fields.need("num_experts", count)?,
        per_token: fields.need("num_experts_per_tok", fields.count("num_experts_per_tok")?)?,
        normalized: names.normalized || fields.flag("norm_topk_prob")?,
    })
}

fn activation(fields: &Fields<'_>) -> Result<Activation> {
    let given = fields.text("hidden_activation")?.or(fields.text("hidden_act")?);
    match fields.need("hidden_act", given)?.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(fields.unsupported(&format!("the activation '{other}'"))),
    }
}

fn layers(fields: &Fields<'_>, family: &Family, max_position: usize) -> Result<Vec<LayerConfig>> {
    let num_layers = fields.need("num_hidden_layers", fields.count("num_hidden_layers")?)?;
    if num_layers > super::checks::MAX_LAYERS {
        return Err(fields.corrupt(format!("'num_hidden_layers' is {num_layers}")));
    }
    // A window longer than the context hides nothing.
    let window = window(fields, family)?.filter(|&window| window < max_position);
    let local_rope = usize::from(family.local_theta.is_some());
    let layer = |slides| match slides {
        true => LayerConfig { window, rope: local_rope },
        false => LayerConfig { window: None, rope: 0 },
    };
    Ok(sliding_layers(fields, family, num_layers)?.into_iter().map(layer).collect())
}

fn window(fields: &Fields<'_>, family: &Family) -> Result<Option<usize>> {
    // Qwen's files name a window that is off unless this flag is set.
    if family.pattern == Pattern::FromLayer && !fields.flag("use_sliding_window")? {
        return Ok(None);
    }
    fields.count("sliding_window")
}

/// For each layer, whether it has the sliding window.
fn sliding_layers(fields: &Fields<'_>, family: &Family, num_layers: usize) -> Result<Vec<bool>> {
    if let Some(types) = fields.texts("layer_types")? {
        if types.len() != num_layers {
            return Err(fields.corrupt(format!("{} 'layer_types' for {num_layers} layers", types.len())));
        }
        return types.iter().map(|kind| slides(fields, kind)).collect();
    }
    let first = fields.count("max_window_layers")?.unwrap_or(0);
    let period = match fields.count("sliding_window_pattern")? {
        Some(period) => Some(period),
        None => fields.count("_sliding_window_pattern")?,
    };
    let slides = |layer: usize| match family.pattern {
        Pattern::Every => true,
        Pattern::FromLayer => layer >= first,
        Pattern::OneFullIn(usual) => !(layer + 1).is_multiple_of(period.unwrap_or(usual).max(1)),
    };
    Ok((0..num_layers).map(slides).collect())
}

fn slides(fields: &Fields<'_>, kind: &str) -> Result<bool> {
    match kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(fields.unsupported(&format!("layers of the type '{other}'"))),
    }
}

fn refuse_what_is_not_handled(fields: &Fields<'_>, family: &Family) -> Result<()> {
    let is_set = |value: &Value| match value {
        Value::Bool(set) => *set,
        // Multipliers are neutral at one, counts at zero.
        Value::Number(number) => !matches!(number.as_f64(), Some(0.0 | 1.0)),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let experts = if family.experts.is_none() { EXPERTS } else { &[] };
    match REFUSED.iter().chain(experts).find(|key| fields.get(key).is_some_and(is_set)) {
        Some(key) => Err(fields.unsupported(&format!("'{key}' of config.json"))),
        None => Ok(()),
    }
}
