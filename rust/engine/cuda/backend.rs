//! The decoder's operations as launches in one stream.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::cublaslt::{CublasLt, LEAST_ROWS, Product};
use super::driver::{DeviceBuffer, DeviceSlice, Stream};
use super::heads::HeadPadding;
use super::launch::{
    AddRmsNorm, AdvanceBatch, Batch, Call, CombineEntries, CopyBlocks, DecodeAttention, Embed, EmbedTable,
    GatedActivation, GatherEntries, Gemm, GemmOutput, GroupedGemm, Kernels, MergeSplits, OrderColumns,
    PrefillAttention, Queries, RmsNorm, RopeAndStore, RouteTokens, Softcap, SortEntries, SumParts,
};
use super::matrix::CudaMatrix;
use super::memory::{Activations, ExpertActivations, KvCache, Rotations};
use super::step::{Section, StepSize};
use super::weights::CudaLinear;
use crate::backend::{Act, Backend, HeadTransform};
use crate::error::Result;
use crate::model::{Activation, ExpertsConfig, ModelConfig};

/// What a step's attention is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttentionWork {
    /// Most queries of a prompt.
    pub max_queries: usize,
    /// By KV group: positions of the cache that the step reads in a layer.
    pub kv_positions: Vec<u64>,
}

/// A step on its way to the device. After an operation has failed the others do nothing.
pub struct CudaStep<'a> {
    pub kernels: &'a Kernels,
    pub stream: &'a Stream,
    /// With padded heads.
    pub config: &'a ModelConfig,
    pub padding: HeadPadding,
    /// Pieces of a sequence that decodes.
    pub num_splits: usize,
    pub num_multiprocessors: usize,
    pub acts: &'a Activations,
    pub kv: &'a KvCache,
    /// By `ModelConfig::ropes`.
    pub rotations: &'a [Rotations],
    /// Tokens that were chosen after the step before.
    pub chosen: DeviceSlice<'a, i32>,
    /// The step's arrays.
    pub arrays: &'a DeviceBuffer<i32>,
    pub size: StepSize,
    pub work: &'a AttentionWork,
    /// Makes products of many rows with matrices of bf16, but for steps that only decode: those are recorded.
    pub cublaslt: Option<&'a CublasLt>,
    /// Wait for every operation: for whom its time is measured.
    pub is_timed: bool,
    pub outcome: RefCell<Result<()>>,
}

impl CudaStep<'_> {
    fn launch(&self, call: &impl Call) {
        let mut outcome = self.outcome.borrow_mut();
        if outcome.is_err() {
            return;
        }
        *outcome = self.kernels.launch(call, self.stream);
        if self.is_timed && outcome.is_ok() {
            *outcome = self.stream.synchronize();
        }
    }

    fn array(&self, section: Section) -> DeviceSlice<'_, i32> {
        self.arrays.slice(self.size.range(section))
    }

    /// The step's rows of a buffer of bf16 activations, and their width.
    fn activations(&self, act: Act) -> (DeviceSlice<'_, bf16>, usize) {
        let config = self.config;
        let (buffer, width) = match act {
            Act::Normed => (&self.acts.normed, config.hidden_size),
            Act::Qkv => (&self.acts.qkv, config.q_dim() + 2 * config.kv_dim()),
            Act::Attended => (&self.acts.attended, config.q_dim()),
            Act::Gate => (&self.acts.gate, config.intermediate_size),
            Act::Projected => (&self.acts.projected, config.hidden_size),
            Act::Residual => panic!("the residual stream is float32"),
        };
        (buffer.slice(0..self.size.num_tokens * width), width)
    }

    fn residual(&self) -> DeviceSlice<'_, f32> {
        self.acts.residual.slice(0..self.size.num_tokens * self.config.hidden_size)
    }

    /// The input as the weight's columns read it. Another order goes to where nothing is kept meanwhile.
    fn ordered(&self, weight: &CudaLinear, input: Act) -> DeviceSlice<'_, bf16> {
        let (x, width) = self.activations(input);
        let Some(order) = weight.order.as_ref().map(DeviceBuffer::all) else { return x };
        let spare = match input {
            Act::Normed => &self.acts.projected,
            Act::Attended => &self.acts.qkv,
            other => panic!("{other:?} is made in the order of its reader"),
        };
        let out = spare.slice(0..self.size.num_tokens * order.len());
        self.launch(&OrderColumns { x, order, out, width });
        out
    }

    fn multiply(&self, weight: &CudaLinear, x: DeviceSlice<'_, bf16>, out: GemmOutput<'_>) {
        let &CudaLinear { ref matrix, rows: n, cols: k, .. } = weight;
        if let CudaMatrix::Bf16(weight) = matrix
            && self.library_multiplies(&Product { x, weight: weight.all(), out, n, k })
        {
            return;
        }
        let (weight, m, partials) = (matrix.as_weight(), x.len() / k, self.acts.partials.all());
        let splits = Gemm::num_splits(m, n, self.num_multiprocessors);
        let panels = Gemm::num_panels(weight, m, n, self.num_multiprocessors);
        self.launch(&Gemm { x, weight, out, n, k, splits, panels, partials });
        if splits > 1 {
            self.launch(&SumParts { partials, out });
        }
    }

    /// False: the kernels are to make the product.
    fn library_multiplies(&self, product: &Product<'_>) -> bool {
        let Some(library) = self.cublaslt else { return false };
        let mut outcome = self.outcome.borrow_mut();
        if self.size.num_prompts == 0 || product.x.len() / product.k < LEAST_ROWS || outcome.is_err() {
            return false;
        }
        let multiplied = library.multiply(product, self.stream);
        if self.is_timed && multiplied.is_ok() {
            *outcome = self.stream.synchronize();
        }
        match multiplied {
            Ok(multiplied) => multiplied,
            Err(error) => {
                *outcome = Err(error);
                true
            }
        }
    }

    fn experts(&self) -> &ExpertActivations {
        self.acts.experts.as_ref().expect("a model with experts has activations for them")
    }

    /// Every expert's rows of x (num_entries, k) times its matrix.
    fn multiply_experts(&self, weight: &CudaLinear, x: DeviceSlice<'_, bf16>, out: DeviceSlice<'_, bf16>) {
        let (starts, k) = (self.experts().starts.all(), weight.cols);
        let n = weight.rows / (starts.len() - 1);
        let weight = weight.matrix.as_weight();
        let (most_rows, num_multiprocessors) = (self.size.num_tokens, self.num_multiprocessors);
        self.launch(&GroupedGemm { x, weight, starts, out, n, k, most_rows, num_multiprocessors });
    }

    fn batch<'a>(&'a self, layer: usize, queries: DeviceSlice<'a, i32>) -> Batch<'a> {
        let group = self.kv.group(layer);
        Batch {
            shape: self.kv.shape,
            qkv: self.activations(Act::Qkv).0,
            cache: self.kv.layer(layer),
            block_tables: self.array(Section::Tables(group)),
            num_seqs: self.size.num_seqs,
            queries,
            attended: self.activations(Act::Attended).0,
            window: self.config.layers[layer].window,
            scale: self.config.attention_scale,
            softcap: self.config.attention_softcap,
            kv_positions: self.work.kv_positions[group],
        }
    }

    /// `runs` of the generated tokens.
    fn decode(&self, layer: usize, runs: Range<usize>) {
        let (start, num_splits) = (self.size.range(Section::Decodes).start, self.num_splits);
        let words = start + runs.start * Queries::WORDS..start + runs.end * Queries::WORDS;
        let batch = self.batch(layer, self.arrays.slice(words));
        let pieces = runs.len() * self.config.num_heads * num_splits;
        let partial_out = self.acts.partial_out.slice(0..pieces * self.config.head_dim);
        let partial_stats = self.acts.partial_stats.slice(0..pieces * 2);
        self.launch(&DecodeAttention { batch, num_splits, partial_out, partial_stats });
        if num_splits > 1 {
            self.launch(&MergeSplits { batch, num_splits, partial_out, partial_stats });
        }
    }

    /// The residual stream of `rows` through the final norm.
    fn final_norm<'a>(
        &'a self,
        rows: Section,
        weight: &DeviceBuffer<f32>,
        to: &'a DeviceBuffer<bf16>,
    ) -> DeviceSlice<'a, bf16> {
        let rows = self.array(rows);
        let normed = to.slice(0..rows.len() * self.config.hidden_size);
        let (residual, weight, eps) = (self.residual(), weight.all(), self.config.norm_eps);
        self.launch(&RmsNorm { residual, rows: Some(rows), weight, normed, eps });
        normed
    }

    /// Makes the arrays of the step before those of this one.
    pub fn advance_batch(&self, changes: DeviceSlice<'_, i32>) {
        let (first, second) = (self.size.range(Section::Slots(0)).start, self.size.range(Section::Slots(1)).start);
        self.launch(&AdvanceBatch {
            arrays: self.arrays.slice(0..self.size.num_words()),
            changes,
            positions: self.array(Section::Positions),
            queries: self.array(Section::Decodes),
            slots: self.array(Section::Slots(0)),
            tables: self.array(Section::Tables(0)),
            num_groups: self.size.num_groups,
            stride: second - first,
        });
    }

    /// Copies the blocks that the step names, before anything is stored.
    pub fn copy_blocks(&self) {
        let (shape, layers_per_block) = (self.kv.shape, self.kv.geometry.layers_per_block);
        let pairs = self.array(Section::Copies);
        if !pairs.is_empty() {
            self.launch(&CopyBlocks { shape, cache: self.kv.all(), layers_per_block, pairs });
        }
    }
}

impl Backend for CudaStep<'_> {
    type Linear = CudaLinear;
    type Vector = DeviceBuffer<f32>;

    fn embed(&self, table: &CudaLinear, scale: Option<f32>) {
        let table = match &table.matrix {
            CudaMatrix::Bf16(table) => EmbedTable::Bf16(table.all()),
            CudaMatrix::F16(table) => EmbedTable::F16(table.all()),
            _ => panic!("the embedding has no codes"),
        };
        self.launch(&Embed {
            tokens: self.array(Section::Tokens),
            sources: self.array(Section::Sources),
            chosen: self.chosen,
            table,
            residual: self.residual(),
            scale: scale.unwrap_or(1.0),
            hidden_size: self.config.hidden_size,
        });
    }

    fn norm(&self, weight: &DeviceBuffer<f32>) {
        let (normed, _) = self.activations(Act::Normed);
        let (residual, weight, eps) = (self.residual(), weight.all(), self.config.norm_eps);
        self.launch(&RmsNorm { residual, rows: None, weight, normed, eps });
    }

    fn linear(&self, weight: &CudaLinear, input: Act) {
        let (out, width) = self.activations(weight.output);
        assert_eq!(width, weight.rows, "the outputs fill {:?}", weight.output);
        self.multiply(weight, self.ordered(weight, input), GemmOutput::Bf16(out));
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<DeviceBuffer<f32>>) {
        let rotations = &self.rotations[heads.rope];
        self.launch(&RopeAndStore {
            shape: self.kv.shape,
            qkv: self.activations(Act::Qkv).0,
            bias: heads.bias.as_ref().map(DeviceBuffer::all),
            query_norm: heads.query_norm.as_ref().map(DeviceBuffer::all),
            key_norm: heads.key_norm.as_ref().map(DeviceBuffer::all),
            cos_sin: rotations.cos_sin.all(),
            rotary_dim: rotations.dim,
            positions: self.array(Section::Positions),
            slots: self.array(Section::Slots(self.kv.group(layer))),
            cache: self.kv.layer(layer),
            eps: self.padding.norm_eps(self.config.norm_eps),
        });
    }

    fn attend(&self, layer: usize) {
        // As many at once as there is room for pieces of: all, but where sequences are computed again.
        let (num_decodes, most) = (self.size.num_decodes, self.acts.num_decodes);
        for first in (0..num_decodes).step_by(most) {
            self.decode(layer, first..num_decodes.min(first + most));
        }
        if self.size.num_prompts > 0 {
            let batch = self.batch(layer, self.array(Section::Prompts));
            self.launch(&PrefillAttention { batch, max_queries: self.work.max_queries });
        }
    }

    fn gated_linear(&self, weight: &CudaLinear, activation: Activation) {
        let width = self.config.intermediate_size;
        let gate_up = self.acts.gate_up.slice(0..self.size.num_tokens * 2 * width);
        self.multiply(weight, self.ordered(weight, Act::Normed), GemmOutput::Bf16(gate_up));
        let (out, _) = self.activations(Act::Gate);
        self.launch(&GatedActivation { activation, gate_up, out, width });
    }

    fn route(&self, router: &CudaLinear, experts: ExpertsConfig) {
        let (acts, num_tokens) = (self.experts(), self.size.num_tokens);
        let entries = num_tokens * experts.per_token;
        let (normed, width) = self.activations(Act::Normed);
        let (logits, shares) = (acts.logits.slice(0..num_tokens * experts.count), acts.shares.slice(0..entries));
        let (picked, rows) = (acts.picked.slice(0..entries), acts.rows.slice(0..entries));
        self.multiply(router, normed, GemmOutput::F32(logits));
        self.launch(&RouteTokens { logits, picked, shares, experts });
        self.launch(&SortEntries { picked, starts: acts.starts.all(), rows });
        let sorted = acts.input.slice(0..entries * width);
        self.launch(&GatherEntries { x: normed, rows, sorted, width, per_token: experts.per_token });
    }

    fn gated_experts(&self, weight: &CudaLinear, experts: ExpertsConfig, activation: Activation) {
        let (entries, width) = (self.size.num_tokens * experts.per_token, self.config.intermediate_size);
        let gate_up = self.acts.gate_up.slice(0..entries * 2 * width);
        self.multiply_experts(weight, self.experts().input.slice(0..entries * self.config.hidden_size), gate_up);
        let out = self.acts.gate.slice(0..entries * width);
        self.launch(&GatedActivation { activation, gate_up, out, width });
    }

    fn sum_experts(&self, weight: &CudaLinear, experts: ExpertsConfig) {
        let (acts, ExpertsConfig { per_token, .. }) = (self.experts(), experts);
        let entries = self.size.num_tokens * per_token;
        let (out, width) = self.activations(Act::Projected);
        let sorted = acts.output.slice(0..entries * width);
        self.multiply_experts(weight, self.acts.gate.slice(0..entries * self.config.intermediate_size), sorted);
        let (rows, shares) = (acts.rows.slice(0..entries), acts.shares.slice(0..entries));
        self.launch(&CombineEntries { sorted, rows, shares, out, width, per_token });
    }

    fn add_and_norm(&self, post: Option<&DeviceBuffer<f32>>, next: Option<&DeviceBuffer<f32>>) {
        self.launch(&AddRmsNorm {
            residual: self.residual(),
            projected: self.activations(Act::Projected).0,
            post: post.map(DeviceBuffer::all),
            next: next.map(|weight| (weight.all(), self.activations(Act::Normed).0)),
            hidden_size: self.config.hidden_size,
            eps: self.config.norm_eps,
        });
    }

    fn head(&self, norm: &DeviceBuffer<f32>, head: &CudaLinear, softcap: Option<f32>) {
        if self.size.num_hidden_rows > 0 {
            self.final_norm(Section::HiddenRows, norm, &self.acts.hidden);
        }
        if self.size.num_logit_rows == 0 {
            return;
        }
        let normed = self.final_norm(Section::LogitRows, norm, &self.acts.normed);
        let vocab_size = self.config.vocab_size;
        let logits = self.acts.logits.slice(0..self.size.num_logit_rows * vocab_size);
        self.multiply(head, normed, GemmOutput::F32(logits));
        if let Some(cap) = softcap {
            self.launch(&Softcap { logits, vocab_size, cap });
        }
    }
}
