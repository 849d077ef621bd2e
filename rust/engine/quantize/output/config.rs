//! `config.json` of a quantized folder.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::families::{ExpertNames, Family};
use crate::model::{Activation, ExpertsConfig, ModelConfig, RopeScaling, Source};
use crate::quantize::method::Method;
use crate::quantize::scheme::{Layout, Scheme};

/// The source's own, or one that says what its GGUF file says, with the `quantization_config` of `method`.
pub fn config(source: &Source, method: &Method) -> Result<Value> {
    let mut config = match source.checkpoint.gguf() {
        None => read(&source.checkpoint.path().join("config.json"))?,
        Some(_) => from_gguf(source)?,
    };
    config.insert("torch_dtype".into(), json!("float16"));
    config.insert("quantization_config".into(), quantization(source.family(), method));
    Ok(Value::Object(config))
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(|err| Error::io(path, err))?;
    serde_json::from_slice(&bytes).map_err(|err| Error::corrupt(path, format!("this is no JSON object: {err}")))
}

/// Routers stay as they are, which each format says in its own way.
fn quantization(family: &Family, method: &Method) -> Value {
    let mut config = of_matrices(method);
    let Some(ExpertNames { block, .. }) = family.experts else { return config };
    match method.scheme.layout() {
        Layout::Gptq => config["dynamic"] = json!({format!(r"-:.*\.{block}\.gate$"): {}}),
        Layout::Awq => config["modules_to_not_convert"] = json!([format!("{block}.gate")]),
        Layout::Packed | Layout::Plain => config["ignore"] = json!(["lm_head", format!(r"re:.*{block}\.gate$")]),
    }
    config
}

fn of_matrices(method: &Method) -> Value {
    let group = method.group.map_or(-1, |group| group as i64);
    let bits = method.scheme.codes().bits;
    match method.scheme.layout() {
        Layout::Gptq => json!({
            "quant_method": "gptq", "bits": bits, "group_size": group, "sym": true, "desc_act": false,
            "static_groups": true, "true_sequential": true, "damp_percent": 0.01, "lm_head": false,
            "checkpoint_format": "gptq",
            "meta": {"quantizer": [format!("ferrule:{}", env!("CARGO_PKG_VERSION"))]},
        }),
        Layout::Awq => json!({
            "quant_method": "awq", "bits": bits, "group_size": group, "zero_point": true, "version": "gemm",
            "modules_to_not_convert": null,
        }),
        Layout::Packed | Layout::Plain => compressed(method, bits),
    }
}

fn compressed(method: &Method, bits: u32) -> Value {
    let format = if method.scheme.layout() == Layout::Plain { "int-quantized" } else { "pack-quantized" };
    let weights = json!({
        "num_bits": bits, "type": "int", "symmetric": true, "dynamic": false, "observer": "minmax",
        "strategy": if method.group.is_some() { "group" } else { "channel" }, "group_size": method.group,
        "actorder": null, "block_structure": null, "observer_kwargs": {},
    });
    let activations = (method.scheme == Scheme::Int8W8A8).then(|| {
        json!({
            "num_bits": 8, "type": "int", "symmetric": true, "dynamic": true, "strategy": "token", "group_size": null,
            "actorder": null, "block_structure": null, "observer": null, "observer_kwargs": {},
        })
    });
    json!({
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": null,
        }},
        "ignore": ["lm_head"], "kv_cache_scheme": null, "global_compression_ratio": null,
    })
}

fn from_gguf(source: &Source) -> Result<Map<String, Value>> {
    let (c, family) = (&source.config, source.family());
    let mut fields = json!({
        "architectures": [family.architecture],
        "model_type": family.model_types[0],
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers(),
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_position,
        "rms_norm_eps": number(c.norm_eps),
        "rope_theta": number(c.ropes[0].theta),
        "rope_scaling": rope_scaling(source)?,
        "tie_word_embeddings": c.tie_embeddings,
        "attention_bias": false,
    });
    let extra = [activation(c), windows(c), special_numbers(c), experts(c, family)].into_iter().flatten();
    let fields = fields.as_object_mut().expect("written as an object above");
    fields.extend(extra);
    Ok(std::mem::take(fields))
}

fn activation(config: &ModelConfig) -> Map<String, Value> {
    let name = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    object(json!({"hidden_act": name, "hidden_activation": name}))
}

fn windows(config: &ModelConfig) -> Map<String, Value> {
    let Some(window) = config.layers.iter().find_map(|layer| layer.window) else {
        return object(json!({"sliding_window": null, "use_sliding_window": false}));
    };
    let kind = |window: Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    let kinds: Vec<_> = config.layers.iter().map(|layer| kind(layer.window)).collect();
    let mut fields = object(json!({"sliding_window": window, "use_sliding_window": true, "layer_types": kinds}));
    if let Some(local) = config.ropes.get(1) {
        fields.insert("rope_local_base_freq".into(), number(local.theta));
    }
    fields
}

/// What only some families have.
fn special_numbers(config: &ModelConfig) -> Map<String, Value> {
    let mut fields = Map::new();
    if config.post_norms {
        let scalar = (1.0 / f64::from(config.attention_scale).powi(2)).round();
        fields.insert("query_pre_attn_scalar".into(), json!(scalar as u64));
        fields.insert("attn_logit_softcapping".into(), config.attention_softcap.map_or(Value::Null, number));
        fields.insert("final_logit_softcapping".into(), config.final_softcap.map_or(Value::Null, number));
    }
    fields
}

fn experts(config: &ModelConfig, family: &Family) -> Map<String, Value> {
    let (Some(ExpertsConfig { count, per_token, normalized }), Some(names)) = (config.experts, family.experts) else {
        return Map::new();
    };
    object(json!({
        names.size: config.intermediate_size, "num_experts": count, "num_local_experts": count,
        "num_experts_per_tok": per_token, "norm_topk_prob": normalized, "decoder_sparse_step": 1, "mlp_only_layers": [],
    }))
}

fn rope_scaling(source: &Source) -> Result<Value> {
    match source.config.ropes[0].scaling {
        RopeScaling::None => Ok(Value::Null),
        RopeScaling::Linear { factor } => {
            Ok(json!({"rope_type": "linear", "type": "linear", "factor": number(factor)}))
        }
        _ => Err(Error::unsupported(
            source.checkpoint.path(),
            "its scaling of positions cannot be said in a config.json: quantize the model's Hugging Face folder instead",
        )),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => unreachable!("written as an object"),
    }
}

/// As a person would write it: 0.00001, not 9.999999747378752e-6.
fn number(x: f32) -> Value {
    json!(x.to_string().parse::<f64>().expect("a float's text is a float"))
}
