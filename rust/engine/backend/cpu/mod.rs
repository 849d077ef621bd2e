//! The decoder's operations on CPU lanes.
//!
//! Work is split so that each element has one writer: matrix products by panels of output rows, everything
//! else by tokens, attention by (sequence, KV head, queries). A barrier ends every operation.

mod activations;
mod buffer;
mod kv_memory;
mod linear;
mod plan;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use activations::Activations;
pub use buffer::Shared;
pub use kv_memory::KvMemory;
pub use linear::{CpuLinear, Segment};
pub use plan::{AttentionWork, StepPlan};

use crate::backend::{Act, Backend, HeadTransform};
use crate::kernels::threads::Lane;
use crate::kernels::{AttentionTask, Kernels, MatMut};
use crate::model::{Activation, ModelConfig, RopeTable};
use crate::sched::SchedulerOutput;

/// What all lanes share during a step.
pub struct CpuStep<'a> {
    pub kernels: Kernels,
    pub config: &'a ModelConfig,
    pub ropes: &'a [RopeTable],
    pub kv: &'a KvMemory,
    pub acts: &'a Activations,
    pub step: &'a SchedulerOutput,
    pub plan: &'a StepPlan,
    /// (plan.logit_rows.len(), vocab_size)
    pub logits: MatMut<'a>,
    /// (plan.hidden_rows.len(), hidden_size)
    pub hidden: MatMut<'a>,
    /// (plan.max_parts(), partial_len)
    pub partials: MatMut<'a>,
    /// One per lane.
    pub scratch: &'a [Mutex<Vec<f32>>],
}

// SAFETY: the output matrices are written by lanes each in its own columns or rows, as `MatMut` says.
unsafe impl Sync for CpuStep<'_> {}

/// One lane of a step.
pub struct CpuLane<'a> {
    pub lane: Lane<'a>,
    pub shared: &'a CpuStep<'a>,
}

/// Every `unsafe` block below reads or writes rows (or columns) of this lane's share, as the module says;
/// what other lanes wrote lies behind a barrier.
impl Backend for CpuLane<'_> {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;

    fn embed(&self, table: &CpuLinear, scale: Option<f32>) {
        let CpuStep { acts, step, kernels, .. } = self.shared;
        for token in self.tokens() {
            // SAFETY: this lane's token.
            let row = unsafe { acts.residual.row_mut(token) };
            table.segments[0].matrix.decode_row(step.tokens[token] as usize, row);
            if let Some(scale) = scale {
                kernels.scale(row, scale);
            }
        }
        self.lane.barrier();
    }

    fn norm(&self, weight: &Vec<f32>) {
        for token in self.tokens() {
            self.norm_row(token, weight);
        }
        self.lane.barrier();
    }

    fn linear(&self, weight: &CpuLinear, input: Act) {
        let rows = self.shared.plan.num_tokens();
        for (segment, panels) in weight.within(self.lane.share(weight.num_panels())) {
            let out = self.shared.acts.get(segment.output).columns_from(segment.col);
            self.multiply(segment, panels, input, rows, out);
        }
        self.lane.barrier();
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<Vec<f32>>) {
        let table = &self.shared.ropes[heads.rope];
        let mut angles = vec![0.0; 2 * table.inv_freq.len()];
        let (cos, sin) = angles.split_at_mut(table.inv_freq.len());
        for token in self.shared.plan.store_share(self.tokens()) {
            table.fill(self.shared.plan.positions[token], cos, sin);
            self.transform_heads(token, heads, cos, sin);
            self.store(layer, token);
        }
        self.lane.barrier();
    }

    fn attend(&self, layer: usize) {
        let group = self.shared.kv.place(layer).group;
        if self.shared.plan.parts(group).is_empty() {
            self.attend_by_task(layer, group);
        } else {
            self.attend_by_chunk(layer, group);
        }
        self.lane.barrier();
        self.quantize(Act::Attended);
    }

    fn gate(&self, activation: Activation) {
        let CpuStep { acts, kernels, .. } = self.shared;
        for token in self.tokens() {
            // SAFETY: this lane's token.
            let (gate, up) = unsafe { (acts.gate.row_mut(token), acts.up.row(token)) };
            kernels.gated_activation(activation, gate, up);
            self.quantize_row(Act::Gate, token);
        }
        self.lane.barrier();
    }

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        let CpuStep { acts, kernels, config, .. } = self.shared;
        for token in self.tokens() {
            // SAFETY: this lane's token.
            let (residual, projected) = unsafe { (acts.residual.row_mut(token), acts.projected.row_mut(token)) };
            if let Some(weight) = post {
                kernels.rms_norm_inplace(projected, weight, config.norm_eps);
            }
            kernels.add(residual, projected);
            if let Some(weight) = next {
                self.norm_row(token, weight);
            }
        }
        self.lane.barrier();
    }

    fn head(&self, norm: &Vec<f32>, head: &CpuLinear, softcap: Option<f32>) {
        self.final_norm(norm);
        self.lane.barrier();
        let rows = self.shared.plan.logit_rows.len();
        if rows > 0 {
            for (segment, panels) in head.within(self.lane.share(head.num_panels())) {
                self.multiply(segment, panels, Act::Normed, rows, self.shared.logits);
            }
            self.lane.barrier();
        }
        if let Some(cap) = softcap {
            for row in self.lane.share(rows) {
                // SAFETY: this lane's row.
                self.shared.kernels.softcap(unsafe { row_of(self.shared.logits, row) }, cap);
            }
            self.lane.barrier();
        }
    }
}

impl CpuLane<'_> {
    fn tokens(&self) -> Range<usize> {
        self.lane.share(self.shared.plan.num_tokens())
    }

    /// Normed row = norm of the residual row, ready for the next product.
    fn norm_row(&self, token: usize, weight: &[f32]) {
        let CpuStep { acts, kernels, config, .. } = self.shared;
        // SAFETY: this lane's token.
        let (residual, normed) = unsafe { (acts.residual.row(token), acts.normed.row_mut(token)) };
        kernels.rms_norm(residual, weight, config.norm_eps, normed);
        self.quantize_row(Act::Normed, token);
    }

    /// Makes a row ready for int8 products, where the mode has them.
    fn quantize_row(&self, act: Act, token: usize) {
        if let Some(quantized) = self.shared.acts.quantized(act) {
            // SAFETY: this lane's token, of which both forms are its own.
            unsafe { self.shared.kernels.quantize_row(self.shared.acts.get(act).row(token), quantized, token) };
        }
    }

    fn quantize(&self, act: Act) {
        if self.shared.acts.quantized(act).is_some() {
            for token in self.tokens() {
                self.quantize_row(act, token);
            }
            self.lane.barrier();
        }
    }

    fn multiply(&self, segment: &Segment, panels: Range<usize>, input: Act, rows: usize, out: MatMut<'_>) {
        let CpuStep { acts, kernels, .. } = self.shared;
        match acts.quantized(input).filter(|_| segment.matrix.layout().is_quantized()) {
            // SAFETY: the columns of these panels are this lane's; the input lies behind a barrier.
            Some(x) => unsafe { kernels.matmul_int8(&segment.matrix, panels, x, rows, out) },
            // SAFETY: as above.
            None => unsafe {
                kernels.matmul_f32(&segment.matrix, panels, acts.get(input).first_rows(rows), rows, out);
            },
        }
    }

    fn transform_heads(&self, token: usize, heads: &HeadTransform<Vec<f32>>, cos: &[f32], sin: &[f32]) {
        let CpuStep { acts, kernels, config, .. } = self.shared;
        // SAFETY: this lane's token.
        let qkv = unsafe { acts.qkv.row_mut(token) };
        if let Some(bias) = &heads.bias {
            kernels.add(qkv, bias);
        }
        let (q, rest) = qkv.split_at_mut(config.q_dim());
        let k = &mut rest[..config.kv_dim()];
        for (part, norm) in [(q, &heads.query_norm), (k, &heads.key_norm)] {
            for head in part.chunks_exact_mut(config.head_dim) {
                if let Some(weight) = norm {
                    kernels.rms_norm_inplace(head, weight, config.norm_eps);
                }
                kernels.rope(head, cos, sin);
            }
        }
    }

    fn store(&self, layer: usize, token: usize) {
        let CpuStep { acts, kernels, config, kv, step, plan, .. } = self.shared;
        let sequence = &step.sequences[plan.sequence_of[token]];
        let table = &step.tables[sequence.tables.start + kv.place(layer).group];
        let position = plan.positions[token];
        let block_size = kv.geometry().block_size;
        let entry = table.blocks.start + position / block_size - table.first_block;
        // SAFETY: this lane's token.
        let qkv = unsafe { acts.qkv.row(token) };
        let (k, v) = qkv[config.q_dim()..].split_at(config.kv_dim());
        // SAFETY: the scheduler gave this sequence the block for writing; `store_share` keeps the two
        // positions of a pair in one lane.
        unsafe { kernels.store_kv(kv.layer(layer), step.block_ids[entry], position % block_size, k, v) };
    }

    fn attend_by_task(&self, layer: usize, group: usize) {
        let mut scratch = self.scratch();
        for &work in self.shared.plan.attention(group, self.lane.id) {
            let task = self.attention_task(layer, group, work);
            // SAFETY: the queries lie behind a barrier, the outputs are this lane's work, and the keys and
            // values of all positions up to the last query were stored in this step or before.
            unsafe { self.shared.kernels.attention(&task, &mut scratch) };
        }
    }

    fn attend_by_chunk(&self, layer: usize, group: usize) {
        let CpuStep { plan, kernels, partials, .. } = *self.shared;
        let parts = plan.parts(group);
        let mut scratch = self.scratch();
        for i in self.lane.share(parts.len()) {
            let task = self.attention_task(layer, group, parts[i].work);
            // SAFETY: row i is this lane's; as in `attend_by_task`.
            unsafe { kernels.attention_partial(&task, parts[i].chunk, row_of(partials, i), &mut scratch) };
        }
        self.lane.barrier();
        let merges = plan.merges(group);
        let share = self.lane.share(merges.len());
        for (work, rows) in merges.skip(share.start).take(share.len()) {
            let task = self.attention_task(layer, group, work);
            // SAFETY: the partials lie behind a barrier; this task's rows and outputs are this lane's.
            unsafe { kernels.attention_merge(&task, rows_of(partials, rows)) };
        }
    }

    /// This lane's scratch memory, kept from step to step.
    fn scratch(&self) -> MutexGuard<'_, Vec<f32>> {
        self.shared.scratch[self.lane.id].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attention_task(&self, layer: usize, group: usize, work: AttentionWork) -> AttentionTask<'_> {
        let CpuStep { acts, config, kv, step, .. } = self.shared;
        let sequence = &step.sequences[work.sequence];
        let table = &step.tables[sequence.tables.start + group];
        let first_row = sequence.tokens.start + work.first;
        let (q, out) = (acts.qkv.columns_from(0), acts.attended.columns_from(0));
        AttentionTask {
            kv: kv.layer(layer),
            kv_head: work.kv_head,
            group: config.num_heads / config.num_kv_heads,
            blocks: &step.block_ids[table.blocks.clone()],
            first_block: table.first_block,
            start: sequence.start + work.first,
            num_queries: work.num_queries,
            window: config.layers[layer].window,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
            q: q.ptr.wrapping_add(first_row * q.stride),
            q_stride: q.stride,
            out: out.ptr.wrapping_add(first_row * out.stride),
            out_stride: out.stride,
        }
    }

    /// The wanted rows of the residual stream through the final norm: to the first rows of Normed (for the
    /// head) or straight to the output (hidden states).
    fn final_norm(&self, weight: &[f32]) {
        let CpuStep { acts, kernels, config, plan, .. } = self.shared;
        for i in self.lane.share(plan.logit_rows.len()) {
            // SAFETY: row i of Normed is this lane's; nobody reads Normed before the barrier.
            let (residual, normed) = unsafe { (acts.residual.row(plan.logit_rows[i]), acts.normed.row_mut(i)) };
            kernels.rms_norm(residual, weight, config.norm_eps, normed);
            self.quantize_row(Act::Normed, i);
        }
        for i in self.lane.share(plan.hidden_rows.len()) {
            // SAFETY: row i of the output is this lane's.
            let (residual, hidden) = unsafe { (acts.residual.row(plan.hidden_rows[i]), row_of(self.shared.hidden, i)) };
            kernels.rms_norm(residual, weight, config.norm_eps, hidden);
        }
    }
}

/// # Safety
/// `rows.end <= mat.rows`, and no other lane touches these rows before the next barrier.
unsafe fn rows_of(mat: MatMut<'_>, rows: Range<usize>) -> &mut [f32] {
    assert!(rows.start <= rows.end && rows.end <= mat.rows);
    // SAFETY: inside the matrix; the caller rules out other users.
    unsafe { std::slice::from_raw_parts_mut(mat.ptr.add(rows.start * mat.stride), rows.len() * mat.stride) }
}

/// # Safety
/// `row < mat.rows`, and no other lane touches this row before the next barrier.
unsafe fn row_of(mat: MatMut<'_>, row: usize) -> &mut [f32] {
    // SAFETY: the caller's promises.
    unsafe { rows_of(mat, row..row + 1) }
}
