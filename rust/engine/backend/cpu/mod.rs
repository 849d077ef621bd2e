//! The decoder's operations on CPU lanes.
//!
//! Work is split so that each element has one writer: matrix products by panels of output rows, everything
//! else by tokens, attention by (sequence, KV head, queries), where a lane that is done helps others. A barrier ends every
//! operation. Of many tokens a lane computes the products of its own, reads what it wrote itself, and meets the others for
//! attention alone, or not even there: see `Split`.

mod activations;
mod buffer;
mod experts;
mod kv_memory;
mod linear;
mod plan;
mod prefixes;
mod session;

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use activations::{Activations, Inputs};
use activations::{Ordered, Rounded, Stream};
pub use buffer::Shared;
pub use kv_memory::KvMemory;
pub use linear::{CpuLinear, Forms, Segment};
pub use plan::{AttentionWork, Lanes, Split, StepPlan};
use prefixes::SharedRead;
pub use session::Session;

use crate::backend::{Act, Backend, HeadTransform};
use crate::kernels::threads::{Arrival, Lane};
use crate::kernels::{
    AttentionTask, BLOCK_ROWS, BLOCK_SIZE, Bf16Rows, Kernels, MatMut, NextRead, OutlierRows, Outliers, Prefix,
    QuantizedRows, blocks, cached_rows, on_lines,
};
use crate::model::{Activation, ExpertsConfig, ModelConfig};
use crate::quant::PANEL_ROWS;
use crate::sched::SchedulerOutput;

/// Outputs of the gate, and as many of up, that a lane computes before it multiplies them: a part of its L2, and for each row
/// four groups of int8 activations, which are quantized together.
const GATED_FLOATS: usize = 4 * BLOCK_ROWS * QuantizedRows::GROUP;

/// Up to this many tokens, products wait for memory, at their beginning at least.
const FEW_TOKENS: usize = 64;

/// Of the weights that come next: what memory gives while lanes norm and meet, and a part of L2.
const EXPECTED_BYTES: usize = 32 << 10;

/// What all lanes share during a step.
pub struct CpuStep<'a> {
    pub kernels: Kernels,
    pub config: &'a ModelConfig,
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
    lane: Lane<'a>,
    shared: &'a CpuStep<'a>,
    /// Before attention, until it needs what others stored.
    arrival: Cell<Option<Arrival>>,
}

/// What products read.
#[derive(Clone, Copy)]
struct Input<'a> {
    float32: Option<&'a Shared>,
    /// None: float32 alone is read.
    rounded: Option<&'a Rounded>,
    /// The same with its columns in each of the linear's orders.
    ordered: &'a [Ordered],
}

impl<'a> Input<'a> {
    fn int8(self) -> Option<&'a QuantizedRows> {
        self.rounded?.int8.as_ref()
    }

    fn bf16(self) -> Option<&'a Bf16Rows> {
        self.rounded?.bf16.as_ref()
    }

    /// With the columns where the segment has them.
    fn of(self, segment: &Segment) -> Self {
        match segment.order.map(|order| &self.ordered[order]) {
            Some(ordered) => Self { float32: Some(&ordered.float32), rounded: Some(&ordered.rounded), ordered: &[] },
            None => self,
        }
    }
}

/// Every `unsafe` block below reads or writes rows (or columns) of this lane's share, as the module says;
/// what other lanes wrote lies behind a barrier.
impl Backend for CpuLane<'_> {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;

    fn embed(&self, table: &CpuLinear, scale: Option<f32>) {
        let CpuStep { step, kernels, .. } = self.shared;
        for token in self.stream_tokens() {
            // SAFETY: this lane's token.
            let row = unsafe { self.stream().residual.row_mut(token) };
            table.segments[0].matrix.decode_row(step.tokens[token] as usize, row);
            if let Some(scale) = scale {
                kernels.scale(row, scale);
            }
        }
        self.meet_after_rows();
    }

    fn norm(&self, weight: &Vec<f32>) {
        for token in self.stream_tokens() {
            self.norm_row(token, weight);
        }
        self.meet_after_rows();
    }

    fn linear(&self, weight: &CpuLinear, input: Act) {
        let input = self.prepare(weight, input, self.shared.plan.num_tokens());
        let (rows, panels) = self.product_share(self.lane.share(weight.num_panels()), weight.num_panels());
        for (segment, panels) in weight.within(panels) {
            let out = self.output(segment.output).columns_from(segment.col);
            self.multiply_rows(segment, panels, input, rows.clone(), out);
        }
        self.meet_after_columns();
    }

    fn expect(&self, weight: &CpuLinear) {
        if self.shared.plan.num_tokens() > FEW_TOKENS {
            return;
        }
        match &weight.segments[..] {
            [gate, up, ..] if gate.output == Act::Gate => {
                let (_, panels) = self.product_share(self.gate_panels(gate), gate.matrix.num_panels());
                for segment in [gate, up] {
                    segment.matrix.fetch(panels.start, EXPECTED_BYTES / 2);
                }
            }
            _ => {
                let (_, panels) = self.product_share(self.lane.share(weight.num_panels()), weight.num_panels());
                if let Some((segment, panels)) = weight.within(panels).next() {
                    segment.matrix.fetch(panels.start, EXPECTED_BYTES);
                }
            }
        }
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<Vec<f32>>) {
        for token in self.tokens() {
            self.transform_heads(token, heads);
            self.store(layer, token);
        }
        if self.split() != Split::Sequences {
            self.arrival.set(Some(self.lane.arrive()));
        }
    }

    fn attend(&self, layer: usize) {
        let group = self.shared.kv.place(layer).group;
        if self.shared.plan.parts(group).is_empty() {
            self.attend_to_shared(layer, group);
            self.attend_by_task(layer, group);
        } else {
            self.wait_for_others();
            self.attend_by_chunk(layer, group);
        }
        self.meet_after_attention();
        self.shared.plan.end_attention(group, self.lane.id);
        if !self.attended_in_groups() {
            self.round_attended();
        }
    }

    fn gated_linear(&self, weight: &CpuLinear, activation: Activation) {
        let [gate, up] = &weight.segments[..] else { panic!("a gated linear has two matrices") };
        let input = self.prepare(weight, Act::Normed, self.shared.plan.num_tokens());
        let (rows, panels) = self.product_share(self.gate_panels(gate), gate.matrix.num_panels());
        let mut scratch = self.scratch();
        let outputs = on_lines(&mut scratch, 2 * GATED_FLOATS);
        self.gated_rows([gate, up], input, activation, rows, panels, outputs);
        self.meet_after_columns();
    }

    fn route(&self, router: &CpuLinear, experts: ExpertsConfig) {
        self.route_tokens(router, experts);
    }

    fn gated_experts(&self, weight: &CpuLinear, experts: ExpertsConfig, activation: Activation) {
        self.gate_experts(weight, experts, activation);
    }

    fn sum_experts(&self, weight: &CpuLinear, experts: ExpertsConfig) {
        self.sum_of_experts(weight, experts);
    }

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        let CpuStep { acts, kernels, config, .. } = self.shared;
        for token in self.stream_tokens() {
            // SAFETY: this lane's token; Projected lies behind a barrier.
            let (stream, projected) = unsafe { (self.stream(), acts.projected.row(token)) };
            // SAFETY: this lane's token.
            let (residual, normed) = unsafe { (stream.residual.row_mut(token), stream.normed.row_mut(token)) };
            match post {
                Some(weight) => {
                    kernels.rms_norm(projected, weight, config.norm_eps, normed);
                    kernels.add(residual, normed);
                }
                None => kernels.add(residual, projected),
            }
            if let Some(weight) = next {
                self.norm_row(token, weight);
            }
        }
        self.meet_after_rows();
    }

    fn head(&self, norm: &Vec<f32>, head: &CpuLinear, softcap: Option<f32>) {
        if self.split().owns_tokens() {
            self.lane.barrier();
        }
        let keeps_outliers = self.keeps_outliers(head);
        self.final_norm(norm, keeps_outliers);
        if self.split() != Split::Alone {
            self.lane.barrier();
        }
        let rows = self.shared.plan.logit_rows.len();
        if rows > 0 {
            let input = self.prepare(head, Act::Normed, rows);
            let outliers = self.stream().outliers.ptr();
            // SAFETY: this lane wrote them, or they lie behind a barrier.
            let outliers: Option<OutlierRows> =
                keeps_outliers.then(|| (0..rows).map(|row| unsafe { *outliers.add(row) }).collect());
            for (segment, panels) in head.within(self.lane.share(head.num_panels())) {
                let CpuStep { kernels, logits, .. } = *self.shared;
                match (&outliers, input.int8()) {
                    // SAFETY: the columns of these panels are this lane's; the input lies behind a barrier.
                    (Some(outliers), Some(x)) => unsafe {
                        kernels.matmul_int8_with_outliers(&segment.matrix, panels, x, outliers, 0..rows, logits);
                    },
                    _ => self.multiply_rows(segment, panels, input, 0..rows, logits),
                }
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

impl<'a> CpuLane<'a> {
    pub fn new(lane: Lane<'a>, shared: &'a CpuStep<'a>) -> Self {
        Self { lane, shared, arrival: Cell::default() }
    }
}

impl CpuLane<'_> {
    /// This lane's tokens, where they are shared out.
    fn tokens(&self) -> Range<usize> {
        let plan = self.shared.plan;
        plan.store_share(self.lane.share(plan.num_tokens()))
    }

    fn split(&self) -> Split {
        self.shared.plan.split
    }

    /// Whether this lane has the residual stream for itself.
    fn is_private(&self) -> bool {
        self.split() == Split::Alone
    }

    /// Rows of tokens and panels of a matrix with `num_panels` that are this lane's part of a product.
    fn product_share(&self, panels: Range<usize>, num_panels: usize) -> (Range<usize>, Range<usize>) {
        match self.split().owns_tokens() {
            true => (self.tokens(), 0..num_panels),
            false => (0..self.shared.plan.num_tokens(), panels),
        }
    }

    fn stream(&self) -> &Stream {
        match self.is_private() {
            true => &self.shared.acts.private[self.lane.id],
            false => &self.shared.acts.stream,
        }
    }

    /// This lane's share of `n` rows of the residual stream.
    fn stream_share(&self, n: usize) -> Range<usize> {
        if self.is_private() { 0..n } else { self.lane.share(n) }
    }

    fn stream_tokens(&self) -> Range<usize> {
        if self.is_private() { 0..self.shared.plan.num_tokens() } else { self.tokens() }
    }

    /// Before what reads other lanes' tokens.
    fn meet_after_rows(&self) {
        if self.split() == Split::Panels {
            self.lane.barrier();
        }
    }

    /// Before what reads other lanes' columns.
    fn meet_after_columns(&self) {
        if !self.split().owns_tokens() {
            self.lane.barrier();
        }
    }

    /// Before what reads others' tokens in attention, once.
    fn wait_for_others(&self) {
        if let Some(arrival) = self.arrival.take() {
            self.lane.wait_for(arrival);
        }
    }

    fn meet_after_attention(&self) {
        self.wait_for_others();
        if self.split() != Split::Sequences {
            self.lane.barrier();
        }
    }

    /// Normed row = norm of the residual row, ready for the next product.
    fn norm_row(&self, token: usize, weight: &[f32]) {
        let (CpuStep { kernels, config, .. }, stream) = (self.shared, self.stream());
        // SAFETY: this lane's token.
        let (residual, normed) = unsafe { (stream.residual.row(token), stream.normed.row_mut(token)) };
        kernels.rms_norm(residual, weight, config.norm_eps, normed);
        self.round_normed(token);
    }

    fn round_normed(&self, row: usize) {
        let stream = self.stream();
        // SAFETY: this lane's row.
        unsafe { stream.normed_rounded.write(self.shared.kernels, stream.normed.row(row), row, 0) };
    }

    /// Whether the heads of a KV head are whole groups, for the lane that computes them, if they are rounded at all.
    fn attended_in_groups(&self) -> bool {
        let CpuStep { acts: Activations { attended_rounded, .. }, config, .. } = self.shared;
        !attended_rounded.is_some() || (config.q_dim() / config.num_kv_heads).is_multiple_of(attended_rounded.group())
    }

    /// Makes a task's outputs ready for the next product.
    fn round_heads(&self, work: AttentionWork) {
        let CpuStep { acts, kernels, config, step, .. } = self.shared;
        if !acts.attended_rounded.is_some() || !self.attended_in_groups() {
            return;
        }
        let width = config.q_dim() / config.num_kv_heads;
        let cols = work.kv_head * width..(work.kv_head + 1) * width;
        let first = step.sequences[work.sequence].tokens.start + work.first;
        for token in first..first + work.num_queries {
            // SAFETY: the task is this lane's, and so are its outputs in both forms.
            let heads = unsafe { acts.attended.part_mut(token, cols.clone()) };
            // SAFETY: as above.
            unsafe { acts.attended_rounded.write(*kernels, heads, token, cols.start) };
        }
    }

    /// The same for all heads, where groups straddle KV heads.
    fn round_attended(&self) {
        let CpuStep { acts, kernels, .. } = self.shared;
        for token in self.tokens() {
            // SAFETY: this lane's token.
            unsafe { acts.attended_rounded.write(*kernels, acts.attended.row(token), token, 0) };
        }
        self.meet_after_columns();
    }

    /// `gated_linear` of some rows of the input and panels, to the same rows of Gate. `outputs` is (2 * GATED_FLOATS,).
    fn gated_rows(
        &self,
        [gate, up]: [&Segment; 2],
        input: Input<'_>,
        activation: Activation,
        rows: Range<usize>,
        panels: Range<usize>,
        outputs: &mut [f32],
    ) {
        let group = self.gate_group_panels();
        let panels_at_once = group * (GATED_FLOATS / (rows.len().min(BLOCK_ROWS) * group * PANEL_ROWS)).max(1);
        for rows in blocks(rows, cached_rows(gate.matrix.cols())) {
            for panels in blocks(panels.clone(), panels_at_once) {
                for rows in blocks(rows.clone(), BLOCK_ROWS) {
                    self.gated_block([gate, up], input, activation, rows, panels.clone(), outputs);
                }
            }
        }
    }

    /// This lane's panels of the gate, and of up: whole groups.
    fn gate_panels(&self, gate: &Segment) -> Range<usize> {
        let group = self.gate_group_panels();
        let share = self.lane.share(gate.matrix.num_panels().div_ceil(group));
        share.start * group..gate.matrix.num_panels().min(share.end * group)
    }

    /// Panels whose outputs are rounded together.
    fn gate_group_panels(&self) -> usize {
        self.shared.acts.gate_rounded.group() / PANEL_ROWS
    }

    /// Gate = activation(gate) * up in these rows and panels, ready for the next product.
    fn gated_block(
        &self,
        [gate, up]: [&Segment; 2],
        input: Input<'_>,
        activation: Activation,
        rows: Range<usize>,
        panels: Range<usize>,
        outputs: &mut [f32],
    ) {
        let cols = panels.start * PANEL_ROWS..gate.matrix.rows().min(panels.end * PANEL_ROWS);
        let CpuStep { acts, kernels, .. } = self.shared;
        let (gated, other) = outputs.split_at_mut(GATED_FLOATS);
        let out = [&mut *gated, &mut *other].map(|out| MatMut::part(out, cols.len(), rows.start, cols.start));
        let pair = [&gate.matrix, &up.matrix];
        let is_one = gate.order == up.order && pair.iter().all(|matrix| matrix.layout().is_quantized());
        match input.of(gate).int8().filter(|_| is_one) {
            // SAFETY: `out` is this lane's scratch memory; the input lies behind a barrier.
            Some(x) => unsafe { kernels.matmul_int8_pair(pair, panels, x, rows.clone(), out) },
            None => {
                for (segment, out) in [gate, up].into_iter().zip(out) {
                    self.multiply_rows(segment, panels.clone(), input, rows.clone(), out);
                }
            }
        }
        let each = gated.chunks_exact_mut(cols.len()).zip(other.chunks_exact(cols.len()));
        for (token, (gated, other)) in rows.zip(each) {
            kernels.gated_activation(activation, gated, other);
            // SAFETY: this lane's columns.
            unsafe { acts.gate_rounded.write(*kernels, gated, token, cols.start) };
            if let Some(float32) = &acts.gate {
                // SAFETY: this lane's columns.
                unsafe { float32.part_mut(token, cols.clone()) }.copy_from_slice(gated);
            }
        }
    }

    /// An activation in the forms that its readers take.
    fn input(&self, act: Act) -> Input<'_> {
        let acts = self.shared.acts;
        let (float32, rounded) = match act {
            Act::Normed => (Some(&self.stream().normed), &self.stream().normed_rounded),
            Act::Attended => (Some(&acts.attended), &acts.attended_rounded),
            Act::Gate => (acts.gate.as_ref(), &acts.gate_rounded),
            Act::Residual | Act::Qkv | Act::Projected => panic!("{act:?} is no input of products"),
        };
        let ordered = match act {
            Act::Normed => &self.stream().ordered,
            Act::Attended => &acts.attended_ordered,
            _ => &[][..],
        };
        Input { float32, rounded: Some(rounded), ordered }
    }

    /// The first `rows` rows of an activation, also with the columns in the orders of `weight`.
    fn prepare(&self, weight: &CpuLinear, act: Act, rows: usize) -> Input<'_> {
        let input = self.input(act);
        if weight.orders.is_empty() {
            return input;
        }
        let from = input.float32.expect("a float32 form is kept where something reads it");
        let is_private = act == Act::Normed && self.is_private();
        let share = match rows {
            _ if is_private => 0..rows,
            _ if rows == self.shared.plan.num_tokens() => self.tokens(),
            _ => self.lane.share(rows),
        };
        for row in share {
            // SAFETY: this lane's row; the input lies behind a barrier, or is this lane's own.
            let from = unsafe { from.row(row) };
            for (order, ordered) in weight.orders.iter().zip(input.ordered) {
                // SAFETY: as above.
                let to = unsafe { ordered.float32.row_mut(row) };
                to.iter_mut().zip(order).for_each(|(to, &col)| *to = from[col as usize]);
                // SAFETY: this lane's row.
                unsafe { ordered.rounded.write(self.shared.kernels, to, row, 0) };
            }
        }
        if !is_private {
            self.lane.barrier();
        }
        input
    }

    fn output(&self, act: Act) -> &Shared {
        let acts = self.shared.acts;
        match act {
            Act::Qkv => &acts.qkv,
            Act::Projected => &acts.projected,
            Act::Residual | Act::Normed | Act::Attended | Act::Gate => panic!("{act:?} is no output of `linear`"),
        }
    }

    fn multiply_rows(
        &self,
        segment: &Segment,
        panels: Range<usize>,
        input: Input<'_>,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        let (kernels, input, layout) = (self.shared.kernels, input.of(segment), segment.matrix.layout());
        if let Some(x) = input.int8().filter(|_| layout.is_quantized()) {
            // SAFETY: the columns of these panels are this lane's; the input lies behind a barrier.
            return unsafe { kernels.matmul_int8(&segment.matrix, panels, x, rows, out) };
        }
        if let Some(x) = input.bf16().filter(|_| layout.takes_bf16()) {
            // SAFETY: as above.
            return unsafe { kernels.matmul_bf16(&segment.matrix, panels, x, rows, out) };
        }
        let x = input.float32.expect("a float32 form is kept where something reads it");
        // SAFETY: as above.
        unsafe {
            kernels.matmul_f32(&segment.matrix, panels, x.rows(rows.clone()), 0..rows.len(), out.rows_from(rows.start))
        }
    }

    /// Whether what the head reads is int8 but for its largest numbers: an error there is one of the logits themselves.
    fn keeps_outliers(&self, head: &CpuLinear) -> bool {
        let has_blocks = |segment: &Segment| segment.matrix.layout().block().is_some() && segment.order.is_none();
        self.stream().normed_rounded.int8.is_some() && head.segments.iter().all(has_blocks)
    }

    fn transform_heads(&self, token: usize, heads: &HeadTransform<Vec<f32>>) {
        let CpuStep { acts, kernels, config, plan, .. } = self.shared;
        let (cos, sin) = plan.angles(heads.rope, token);
        // SAFETY: this lane's token.
        let qkv = unsafe { acts.qkv.row_mut(token) };
        if let Some(bias) = &heads.bias {
            kernels.add(qkv, bias);
        }
        let (q, rest) = qkv.split_at_mut(config.q_dim());
        let k = &mut rest[..config.kv_dim()];
        for (part, norm) in [(q, &heads.query_norm), (k, &heads.key_norm)] {
            if let Some(weight) = norm {
                for head in part.chunks_exact_mut(config.head_dim) {
                    kernels.rms_norm_inplace(head, weight, config.norm_eps);
                }
            }
            kernels.rope(part, config.head_dim, cos, sin);
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

    /// The chunks that several sequences share, for `attend_by_task` to go on from.
    fn attend_to_shared(&self, layer: usize, group: usize) {
        let CpuStep { plan, kernels, partials, acts, .. } = *self.shared;
        let shared = plan.shared(group);
        if shared.is_empty() {
            return;
        }
        self.wait_for_others();
        let mut scratch = self.scratch();
        let mut reads = shared.reads(self.lane.id).peekable();
        while let Some(SharedRead { kv_head, chunk, tokens, rows }) = reads.next() {
            let work = AttentionWork { sequence: chunk.sequence, kv_head, first: 0, num_queries: 1 };
            let task = AttentionTask {
                next: reads.peek().map(|next| self.next_shared(layer, group, next)),
                q: acts.qkv.columns_from(0).ptr,
                q_rows: Some(tokens),
                num_queries: tokens.len(),
                ..self.attention_task(layer, group, work)
            };
            // SAFETY: the rows are this lane's; as in `attend_by_task`.
            unsafe { kernels.attention_partial(&task, chunk.chunk, rows_of(partials, rows), &mut scratch) };
        }
        self.lane.barrier();
    }

    fn attend_by_task(&self, layer: usize, group: usize) {
        let CpuStep { plan, step, kernels, partials, .. } = *self.shared;
        let mut scratch = self.scratch();
        let mut works = plan.attention(group, self.lane.id).peekable();
        while let Some(work) = works.next() {
            if !plan.reads_own(step, work, self.tokens()) {
                self.wait_for_others();
            }
            let next = works.peek().map(|&next| self.next_read(layer, group, next));
            let (rows, behind) = plan.shared(group).rows(work.sequence, work.kv_head);
            let prefix = (!rows.is_empty()).then_some(Prefix { partials: partials.ptr, rows, behind });
            let task = AttentionTask { next, prefix, ..self.attention_task(layer, group, work) };
            // SAFETY: the queries and the partials lie behind a barrier, the outputs are this lane's work, and the keys
            // and values of all positions up to the last query were stored in this step or before.
            unsafe { kernels.attention(&task, &mut scratch) };
            self.round_heads(work);
        }
    }

    fn attend_by_chunk(&self, layer: usize, group: usize) {
        let CpuStep { plan, kernels, partials, .. } = *self.shared;
        let parts = plan.parts(group);
        let mut scratch = self.scratch();
        for i in plan.parts_left(group, self.lane.id) {
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
            self.round_heads(work);
        }
    }

    /// This lane's scratch memory, kept from step to step.
    fn scratch(&self) -> MutexGuard<'_, Vec<f32>> {
        self.shared.scratch[self.lane.id].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a task reads itself.
    fn next_read(&self, layer: usize, group: usize, work: AttentionWork) -> NextRead<'_> {
        let AttentionTask { blocks, first_block, start, window, .. } = self.attention_task(layer, group, work);
        let shared = self.shared.plan.shared(group).num_chunks(work.sequence) * AttentionTask::CHUNK_LEN;
        let first = (AttentionTask::first_seen(start, window).max(shared) / BLOCK_SIZE).min(first_block + blocks.len());
        NextRead { blocks: &blocks[first - first_block..], first_block: first, kv_head: work.kv_head }
    }

    fn next_shared(&self, layer: usize, group: usize, read: &SharedRead<'_>) -> NextRead<'_> {
        let SharedRead { kv_head, chunk, .. } = *read;
        let work = AttentionWork { sequence: chunk.sequence, kv_head, first: 0, num_queries: 1 };
        let first_block = chunk.chunk * AttentionTask::CHUNK_LEN / BLOCK_SIZE;
        NextRead { blocks: &self.attention_task(layer, group, work).blocks[first_block..], first_block, kv_head }
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
            next: None,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
            q: q.ptr.wrapping_add(first_row * q.stride),
            q_stride: q.stride,
            q_rows: None,
            prefix: None,
            out: out.ptr.wrapping_add(first_row * out.stride),
            out_stride: out.stride,
        }
    }

    /// The wanted rows of the residual stream through the final norm: to the first rows of Normed (for the
    /// head) or straight to the output (hidden states).
    fn final_norm(&self, weight: &[f32], keeps_outliers: bool) {
        let CpuStep { kernels, config, plan, .. } = self.shared;
        for i in self.stream_share(plan.logit_rows.len()) {
            let stream = self.stream();
            // SAFETY: no lane writes the residual stream any more; row i is this lane's.
            let (residual, normed) = unsafe { (stream.residual.row(plan.logit_rows[i]), stream.normed.row_mut(i)) };
            kernels.rms_norm(residual, weight, config.norm_eps, normed);
            if keeps_outliers {
                // SAFETY: as above.
                unsafe { *stream.outliers.at(i) = Outliers::take(normed) };
            }
            self.round_normed(i);
        }
        for i in self.lane.share(plan.hidden_rows.len()) {
            // SAFETY: row i of the output is this lane's.
            let (residual, hidden) =
                unsafe { (self.stream().residual.row(plan.hidden_rows[i]), row_of(self.shared.hidden, i)) };
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
