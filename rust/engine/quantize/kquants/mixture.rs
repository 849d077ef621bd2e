//! Which type each tensor of a file gets. The rules are llama.cpp's, so that files have the sizes that their names
//! promise everywhere.

use crate::quant::DType;

/// A scheme for whole files, named for the type that most tensors have.
#[derive(Debug, PartialEq, Eq)]
pub struct Mixture {
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// What matrices have without another rule.
    most: DType,
    /// The output matrix, also where it is the embedding.
    head: DType,
    /// Queries, keys and values in one tensor.
    fused: DType,
    /// Values, and the way down of the feed-forward, in the layers that `has_more_bits` names.
    more: DType,
    /// The way down in the first eighth of the layers, if columns have an importance.
    early_down: DType,
}

use DType::*;

#[rustfmt::skip]
pub const MIXTURES: [Mixture; 5] = [
    Mixture { name: "q4_0",   file_type: 2,  most: Q4_0, head: Q6_K, fused: Q4_0, more: Q4_0, early_down: Q4_1 },
    Mixture { name: "q4_k_m", file_type: 15, most: Q4_K, head: Q6_K, fused: Q5_K, more: Q6_K, early_down: Q6_K },
    Mixture { name: "q5_k_m", file_type: 17, most: Q5_K, head: Q6_K, fused: Q6_K, more: Q6_K, early_down: Q6_K },
    Mixture { name: "q6_k",   file_type: 18, most: Q6_K, head: Q6_K, fused: Q6_K, more: Q6_K, early_down: Q6_K },
    Mixture { name: "q8_0",   file_type: 7,  most: Q8_0, head: Q8_0, fused: Q8_0, more: Q8_0, early_down: Q8_0 },
];

/// What the rules ask of a model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub num_layers: usize,
    /// 0: none.
    pub num_experts: usize,
    /// The embedding is also the output matrix.
    pub tied: bool,
    /// Columns have an importance.
    pub weighted: bool,
}

impl Mixture {
    pub fn named(name: &str) -> Option<&'static Self> {
        MIXTURES.iter().find(|mixture| mixture.name == name)
    }

    /// The type of a matrix by its name in GGUF files, before its width is looked at.
    pub fn dtype(&self, name: &str, shape: Shape) -> DType {
        let (layer, stem) = split(name);
        let more = layer.is_some_and(|layer| has_more_bits(layer, shape.num_layers));
        let early = layer.is_some_and(|layer| layer < shape.num_layers / 8);
        // Where 8 experts make attention's share small.
        let few_experts = shape.num_experts == 8;
        match stem {
            "attn_k.weight" | "attn_v.weight" if few_experts => Q8_0,
            "attn_output.weight" if few_experts && self.most == Q4_K => Q5_K,
            "output.weight" => self.head,
            "token_embd.weight" if shape.tied => self.head,
            "attn_qkv.weight" => self.fused,
            "ffn_down.weight" | "ffn_down_exps.weight" if early && shape.weighted => self.early_down,
            "attn_v.weight" | "ffn_down.weight" | "ffn_down_exps.weight" if more => self.more,
            _ => self.most,
        }
    }
}

/// What stands in for a type whose blocks do not divide rows of `cols`.
pub fn fallback(dtype: DType, cols: usize) -> DType {
    let narrow = match dtype {
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        other => other,
    };
    [dtype, narrow].into_iter().find(|dtype| cols.is_multiple_of(dtype.block_len())).unwrap_or(F16)
}

/// The layer of a tensor that belongs to one, and the rest of the name.
fn split(name: &str) -> (Option<usize>, &str) {
    let parts = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match parts.and_then(|(layer, stem)| Some((layer.parse().ok()?, stem))) {
        Some((layer, stem)) => (Some(layer), stem),
        None => (None, name),
    }
}

/// The first and the last eighth of the layers, and every third one between them.
fn has_more_bits(layer: usize, num_layers: usize) -> bool {
    let eighth = num_layers / 8;
    layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(num_layers: usize) -> Shape {
        Shape { num_layers, num_experts: 0, tied: false, weighted: false }
    }

    /// As llama.cpp's own Q4_K_M file of a Llama with 16 layers has them.
    #[test]
    fn half_of_the_values_of_a_model_with_16_layers_have_more_bits() {
        let mixture = Mixture::named("q4_k_m").unwrap();
        let more: Vec<usize> =
            (0..16).filter(|i| mixture.dtype(&format!("blk.{i}.attn_v.weight"), shape(16)) == Q6_K).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(mixture.dtype("blk.0.attn_k.weight", shape(16)), Q4_K);
    }

    #[test]
    fn attention_has_more_bits_beside_8_experts() {
        let mixture = Mixture::named("q4_k_m").unwrap();
        let shape = Shape { num_experts: 8, ..shape(16) };
        let types = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up_exps", "ffn_down_exps"]
            .map(|stem| mixture.dtype(&format!("blk.3.{stem}.weight"), shape));
        assert_eq!(types, [Q4_K, Q8_0, Q8_0, Q5_K, Q4_K, Q4_K]);
        assert_eq!(mixture.dtype("blk.4.ffn_down_exps.weight", shape), Q6_K);
        assert_eq!(mixture.dtype("blk.3.attn_k.weight", Shape { num_experts: 16, ..shape }), Q4_K);
    }

    #[test]
    fn an_embedding_is_as_good_as_the_head_that_it_is() {
        let mixture = Mixture::named("q4_0").unwrap();
        assert_eq!(mixture.dtype("token_embd.weight", shape(16)), Q4_0);
        assert_eq!(mixture.dtype("token_embd.weight", Shape { tied: true, ..shape(16) }), Q6_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_fall_back() {
        assert_eq!([1024, 576, 100].map(|cols| fallback(Q4_K, cols)), [Q4_K, Q5_0, F16]);
        assert_eq!([Q4_0, Q5_K, Q6_K, Q8_0].map(|dtype| fallback(dtype, 576)), [Q4_0, Q5_1, Q8_0, Q8_0]);
    }
}
