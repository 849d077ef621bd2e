//! Where tensors are: names and row ranges of roles, in both containers.

use super::role::Role;
use super::{ModelConfig, families::Family};

/// How a checkpoint names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    Gguf,
    /// The prefix of everything but the head, which differs between plain and multimodal checkpoints.
    HuggingFace {
        body: &'static str,
        head: &'static str,
    },
}

/// Rows `first_row .. first_row + rows` of a tensor with `total_rows`, all dimensions but the last taken together. Vectors
/// have `cols` None.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub first_row: usize,
    pub rows: usize,
    pub total_rows: usize,
    pub cols: Option<usize>,
    /// Of matrices of all experts in one tensor: how many there are, its first dimension.
    pub experts: Option<usize>,
}

impl Place {
    /// The tensor's shape.
    pub fn shape(&self) -> Vec<usize> {
        let rows = self.total_rows / self.experts.unwrap_or(1);
        [self.experts, Some(rows), self.cols].into_iter().flatten().collect()
    }
}

/// Body and head prefixes of Hugging Face checkpoints.
pub const HF_PREFIXES: &[(&str, &str)] =
    &[("model.", ""), ("model.language_model.", ""), ("language_model.model.", "language_model.")];

impl Naming {
    pub fn place(self, role: Role, config: &ModelConfig, family: &Family) -> Place {
        let (rows, cols) = shape(role, config);
        let stacked = role.expert().filter(|_| self == Self::Gguf).zip(config.experts);
        let (first_row, total_rows) = match stacked {
            Some((expert, experts)) => (expert * rows, experts.count * rows),
            None if family.fused => fused_rows(role, config).unwrap_or((0, rows)),
            None => (0, rows),
        };
        let experts = stacked.map(|(_, experts)| experts.count);
        Place { name: self.name(role, family), first_row, rows, total_rows, cols, experts }
    }

    fn name(self, role: Role, family: &Family) -> String {
        if let (Self::HuggingFace { body, .. }, Some((layer, stem))) = (self, expert_stem(role, family)) {
            return format!("{body}layers.{layer}.{stem}");
        }
        match self {
            Self::Gguf => match gguf_stem(role, family.fused) {
                (Some(layer), stem) => format!("blk.{layer}.{stem}"),
                (None, stem) => stem.into(),
            },
            Self::HuggingFace { body, head } => match hf_stem(role, family) {
                (Some(layer), stem) => format!("{body}layers.{layer}.{stem}"),
                (None, stem) if role == Role::Head => format!("{head}{stem}"),
                (None, stem) => format!("{body}{stem}"),
            },
        }
    }

    /// The part of a name after the layer's number, for tensors that belong to a layer.
    pub fn layer_prefix(self) -> String {
        match self {
            Self::Gguf => "blk.".into(),
            Self::HuggingFace { body, .. } => format!("{body}layers."),
        }
    }
}

/// Rows, and columns of matrices.
fn shape(role: Role, config: &ModelConfig) -> (usize, Option<usize>) {
    use Role::*;
    let hidden = config.hidden_size;
    match role {
        Embedding | Head => (config.vocab_size, Some(hidden)),
        FinalNorm | AttnNorm(_) | AttnPostNorm(_) | FfnNorm(_) | FfnPostNorm(_) => (hidden, None),
        Query(_) => (config.q_dim(), Some(hidden)),
        Key(_) | Value(_) => (config.kv_dim(), Some(hidden)),
        QueryBias(_) => (config.q_dim(), None),
        KeyBias(_) | ValueBias(_) => (config.kv_dim(), None),
        QueryNorm(_) | KeyNorm(_) => (config.head_dim, None),
        AttnOutput(_) => (hidden, Some(config.q_dim())),
        Gate(_) | Up(_) | ExpertGate(..) | ExpertUp(..) => (config.intermediate_size, Some(hidden)),
        Down(_) | ExpertDown(..) => (hidden, Some(config.intermediate_size)),
        Router(_) => (config.experts.map_or(0, |experts| experts.count), Some(hidden)),
    }
}

/// First row and total rows in the fused tensors: q, k, v below each other, gate above up.
fn fused_rows(role: Role, config: &ModelConfig) -> Option<(usize, usize)> {
    let (q, kv, ffn) = (config.q_dim(), config.kv_dim(), config.intermediate_size);
    match role {
        Role::Query(_) => Some((0, q + 2 * kv)),
        Role::Key(_) => Some((q, q + 2 * kv)),
        Role::Value(_) => Some((q + kv, q + 2 * kv)),
        Role::Gate(_) => Some((0, 2 * ffn)),
        Role::Up(_) => Some((ffn, 2 * ffn)),
        _ => None,
    }
}

fn gguf_stem(role: Role, fused: bool) -> (Option<usize>, &'static str) {
    use Role::*;
    match role {
        Embedding => (None, "token_embd.weight"),
        FinalNorm => (None, "output_norm.weight"),
        Head => (None, "output.weight"),
        AttnNorm(i) => (Some(i), "attn_norm.weight"),
        Query(i) | Key(i) | Value(i) if fused => (Some(i), "attn_qkv.weight"),
        Query(i) => (Some(i), "attn_q.weight"),
        Key(i) => (Some(i), "attn_k.weight"),
        Value(i) => (Some(i), "attn_v.weight"),
        QueryBias(i) => (Some(i), "attn_q.bias"),
        KeyBias(i) => (Some(i), "attn_k.bias"),
        ValueBias(i) => (Some(i), "attn_v.bias"),
        QueryNorm(i) => (Some(i), "attn_q_norm.weight"),
        KeyNorm(i) => (Some(i), "attn_k_norm.weight"),
        AttnOutput(i) => (Some(i), "attn_output.weight"),
        AttnPostNorm(i) => (Some(i), "post_attention_norm.weight"),
        FfnNorm(i) => (Some(i), "ffn_norm.weight"),
        Gate(i) if fused => (Some(i), "ffn_up.weight"),
        Gate(i) => (Some(i), "ffn_gate.weight"),
        Up(i) => (Some(i), "ffn_up.weight"),
        Down(i) => (Some(i), "ffn_down.weight"),
        Router(i) => (Some(i), "ffn_gate_inp.weight"),
        ExpertGate(i, _) => (Some(i), "ffn_gate_exps.weight"),
        ExpertUp(i, _) => (Some(i), "ffn_up_exps.weight"),
        ExpertDown(i, _) => (Some(i), "ffn_down_exps.weight"),
        FfnPostNorm(i) => (Some(i), "post_ffw_norm.weight"),
    }
}

/// Layer and name of what belongs to a mixture of experts.
fn expert_stem(role: Role, family: &Family) -> Option<(usize, String)> {
    let names = family.experts?;
    let expert = |expert: usize, part: &str| format!("{}.experts.{expert}.{part}.weight", names.block);
    match role {
        Role::Router(i) => Some((i, format!("{}.gate.weight", names.block))),
        Role::ExpertGate(i, e) => Some((i, expert(e, names.gate))),
        Role::ExpertUp(i, e) => Some((i, expert(e, names.up))),
        Role::ExpertDown(i, e) => Some((i, expert(e, names.down))),
        _ => None,
    }
}

fn hf_stem(role: Role, family: &Family) -> (Option<usize>, &'static str) {
    use Role::*;
    match role {
        Embedding => (None, "embed_tokens.weight"),
        FinalNorm => (None, "norm.weight"),
        Head => (None, "lm_head.weight"),
        AttnNorm(i) => (Some(i), "input_layernorm.weight"),
        Query(i) | Key(i) | Value(i) if family.fused => (Some(i), "self_attn.qkv_proj.weight"),
        Query(i) => (Some(i), "self_attn.q_proj.weight"),
        Key(i) => (Some(i), "self_attn.k_proj.weight"),
        Value(i) => (Some(i), "self_attn.v_proj.weight"),
        QueryBias(i) => (Some(i), "self_attn.q_proj.bias"),
        KeyBias(i) => (Some(i), "self_attn.k_proj.bias"),
        ValueBias(i) => (Some(i), "self_attn.v_proj.bias"),
        QueryNorm(i) => (Some(i), "self_attn.q_norm.weight"),
        KeyNorm(i) => (Some(i), "self_attn.k_norm.weight"),
        AttnOutput(i) => (Some(i), "self_attn.o_proj.weight"),
        AttnPostNorm(i) => (Some(i), "post_attention_layernorm.weight"),
        // The name tells where the norm stands, and Gemma has one more before it.
        FfnNorm(i) if family.post_norms => (Some(i), "pre_feedforward_layernorm.weight"),
        FfnNorm(i) => (Some(i), "post_attention_layernorm.weight"),
        Gate(i) | Up(i) if family.fused => (Some(i), "mlp.gate_up_proj.weight"),
        Gate(i) => (Some(i), "mlp.gate_proj.weight"),
        Up(i) => (Some(i), "mlp.up_proj.weight"),
        Down(i) => (Some(i), "mlp.down_proj.weight"),
        Router(_) | ExpertGate(..) | ExpertUp(..) | ExpertDown(..) => unreachable!("`expert_stem` names them"),
        FfnPostNorm(i) => (Some(i), "post_feedforward_layernorm.weight"),
    }
}
