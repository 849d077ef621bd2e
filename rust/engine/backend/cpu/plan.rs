//! A step, prepared for lanes: positions, and who attends to what.
//!
//! Chunks that several sequences share are read first, for all of them (`SharedPrefixes`).
//! Attention is cut in one of two ways. Usually lanes take whole tasks. Where a few sequences decode at long
//! contexts there are too few tasks to keep the lanes equally busy: then lanes take chunks of tasks, and
//! merge them in a second round. Both give the same bits, whoever takes what: a lane that is done helps others.

use std::ops::Range;

use super::activations::PRIVATE_TOKENS;
use super::prefixes::SharedPrefixes;
use crate::config::Cores;
use crate::kernels::threads::shares::Shares;
use crate::kernels::{AttentionTask, BLOCK_SIZE};
use crate::kv::KvGeometry;
use crate::model::{ModelConfig, RopeTable};
use crate::sched::{RowsWanted, ScheduledSequence, SchedulerOutput};

/// Queries that one attention task takes at most: enough to share K and V reads, few enough to balance.
const QUERY_TILE: usize = 32;

/// From this many tasks per lane on, whole ones balance well enough.
const TASKS_PER_LANE: usize = 8;

/// From this many tokens a lane on, lanes own tokens. A lane then reads all weights, which its products hide.
const OWN_TOKENS: usize = 96;

/// The same where lanes' cores share no cache: what another lane wrote takes so long to come that reading weights is cheaper.
const OWN_TOKENS_AFAR: usize = 8;

/// Lanes own sequences only if the one with most attention has at most this many sixteenths of it more than its share.
const MOST_EXCESS: usize = 1;

/// How lanes share a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Split {
    /// Products by panels; the rest, each lane for itself.
    Alone,
    /// Products by panels, the rest by tokens. Experts' rows are no lane's own.
    #[default]
    Panels,
    /// All by tokens, but for attention, which is cut into equal work.
    Tokens,
    /// All by sequences that decode: lanes do not meet before the head.
    Sequences,
}

impl Split {
    /// Whether a lane computes the products of its own tokens.
    pub fn owns_tokens(self) -> bool {
        matches!(self, Self::Tokens | Self::Sequences)
    }
}

/// Who shares steps.
#[derive(Debug, Clone, Copy)]
pub struct Lanes {
    count: usize,
    /// Tokens of a lane from which on it owns them. None: never.
    own_tokens: Option<usize>,
}

impl Lanes {
    pub fn new(config: &ModelConfig, count: usize, cores: Cores) -> Self {
        let own_tokens = match cores {
            Cores::Near => OWN_TOKENS,
            Cores::Far => OWN_TOKENS_AFAR,
        };
        Self { count, own_tokens: config.experts.is_none().then_some(own_tokens) }
    }

    /// Whether lanes own the tokens of such a step.
    pub fn own(&self, num_tokens: usize) -> bool {
        self.count > 1 && self.own_tokens.is_some_and(|own| num_tokens >= own * self.count)
    }
}

/// Consecutive queries of one sequence against one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionWork {
    /// Into the step's sequences.
    pub sequence: usize,
    pub kv_head: usize,
    /// First query, counted from the sequence's first scheduled token.
    pub first: usize,
    pub num_queries: usize,
}

/// A chunk of a task. Its partial result has the row of its own index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionPart {
    pub work: AttentionWork,
    pub chunk: usize,
}

/// One KV group's attention, cut so that lanes have equal work.
#[derive(Debug, Default)]
struct GroupWork {
    tasks: Vec<AttentionWork>,
    /// Of `tasks`, or of `parts` if there are any.
    shares: Shares,
    /// All chunks of all tasks, task by task. Empty: lanes take whole tasks.
    parts: Vec<AttentionPart>,
    /// (tasks + 1,) into `parts`.
    part_bounds: Vec<usize>,
    /// What is read before.
    shared: SharedPrefixes,
}

/// Derived from the step once, read by all lanes. Buffers are reused.
#[derive(Debug, Default)]
pub struct StepPlan {
    /// (num_tokens,) position in its sequence.
    pub positions: Vec<usize>,
    /// (num_tokens,) into the step's sequences.
    pub sequence_of: Vec<usize>,
    /// Tokens whose logits are wanted.
    pub logit_rows: Vec<usize>,
    /// Tokens whose hidden state is wanted.
    pub hidden_rows: Vec<usize>,
    /// Per rope, (num_tokens, 2, dims / 2): cosines, then sines.
    angles: Vec<Vec<f32>>,
    groups: Vec<GroupWork>,
    pub split: Split,
}

impl StepPlan {
    pub fn fill(&mut self, step: &SchedulerOutput, geometry: &KvGeometry, num_kv_heads: usize, lanes: Lanes) {
        self.fill_tokens(step);
        self.groups.resize_with(geometry.groups.len(), GroupWork::default);
        for (i, (work, group)) in self.groups.iter_mut().zip(&geometry.groups).enumerate() {
            work.shared.fill(step, i, group.window, num_kv_heads, lanes.count);
            work.fill(step, group.window, num_kv_heads, lanes.count);
        }
        self.split = match self.num_tokens() {
            tokens if lanes.count > 1 && tokens <= PRIVATE_TOKENS => Split::Alone,
            tokens if lanes.own(tokens) => Split::Tokens,
            _ => Split::Panels,
        };
        if self.split == Split::Tokens && self.num_tokens() == step.sequences.len() {
            self.own_sequences(step, geometry, num_kv_heads, lanes.count);
        }
    }

    /// Lanes own sequences, if these share nothing and that leaves none with much more attention than others. Each sequence has
    /// one token.
    fn own_sequences(&mut self, step: &SchedulerOutput, geometry: &KvGeometry, num_kv_heads: usize, num_lanes: usize) {
        let num = step.sequences.len();
        let bounds: Vec<_> = (0..=num_lanes).map(|lane| lane * num / num_lanes * num_kv_heads).collect();
        let mut groups = self.groups.iter().zip(&geometry.groups);
        if groups.all(|(work, group)| work.shared.is_empty() && work.is_fair(step, group.window, &bounds)) {
            self.split = Split::Sequences;
            for work in &mut self.groups {
                work.parts.clear();
                work.shares.fill(|own| own.extend(&bounds));
            }
        }
    }

    /// Computes the rotations of the step's tokens: once for all layers.
    pub fn fill_angles(&mut self, ropes: &[RopeTable]) {
        self.angles.resize_with(ropes.len(), Vec::new);
        for (rope, angles) in ropes.iter().zip(&mut self.angles) {
            let half = rope.inv_freq.len();
            angles.resize(2 * half * self.positions.len(), 0.0);
            for (&position, angles) in self.positions.iter().zip(angles.chunks_exact_mut(2 * half)) {
                let (cos, sin) = angles.split_at_mut(half);
                rope.fill(position, cos, sin);
            }
        }
    }

    /// Cosines and sines of a token's rotation, (dims / 2,) each.
    pub fn angles(&self, rope: usize, token: usize) -> (&[f32], &[f32]) {
        let angles = &self.angles[rope];
        let len = angles.len() / self.num_tokens();
        angles[token * len..][..len].split_at(len / 2)
    }

    fn fill_tokens(&mut self, step: &SchedulerOutput) {
        self.positions.clear();
        self.sequence_of.clear();
        self.logit_rows.clear();
        self.hidden_rows.clear();
        for (i, sequence) in step.sequences.iter().enumerate() {
            self.positions.extend(sequence.start..sequence.context_len());
            self.sequence_of.extend(std::iter::repeat_n(i, sequence.num_tokens()));
            let last = sequence.tokens.end - 1;
            match sequence.rows {
                RowsWanted::None => {}
                RowsWanted::Last => self.logit_rows.push(last),
                RowsWanted::All => self.logit_rows.extend(sequence.tokens.clone()),
                RowsWanted::Embedding => self.hidden_rows.push(last),
            }
        }
    }

    pub fn num_tokens(&self) -> usize {
        self.positions.len()
    }

    /// What is left for `lane` to attend to in a layer of `group`, if lanes take whole tasks.
    pub fn attention(&self, group: usize, lane: usize) -> impl Iterator<Item = AttentionWork> {
        let GroupWork { tasks, shares, .. } = &self.groups[group];
        let helps = self.split != Split::Sequences;
        std::iter::from_fn(move || shares.take(lane, helps)).map(|i| tasks[i])
    }

    /// Whether the lane with these tokens, or an earlier step, stored all that is in the blocks that a task reads.
    pub fn reads_own(&self, step: &SchedulerOutput, work: AttentionWork, own: Range<usize>) -> bool {
        let sequence = &step.sequences[work.sequence];
        let behind = (sequence.start + work.first + work.num_queries).next_multiple_of(BLOCK_SIZE) - sequence.start;
        let ScheduledSequence { tokens, .. } = sequence;
        self.split.owns_tokens() && own.start <= tokens.start && tokens.end.min(tokens.start + behind) <= own.end
    }

    /// The chunks that lanes share where they do not take whole tasks.
    pub fn parts(&self, group: usize) -> &[AttentionPart] {
        &self.groups[group].parts
    }

    /// What is left for `lane` of them in a layer.
    pub fn parts_left(&self, group: usize, lane: usize) -> impl Iterator<Item = usize> {
        let shares = &self.groups[group].shares;
        std::iter::from_fn(move || shares.take(lane, true))
    }

    /// When all lanes that help each other have met after a layer of `group`: for each of them.
    pub fn end_attention(&self, group: usize, lane: usize) {
        self.groups[group].shares.refill(lane);
    }

    /// The tasks of a group that is computed by chunks, each with the rows of its partial results.
    pub fn merges(&self, group: usize) -> impl ExactSizeIterator<Item = (AttentionWork, Range<usize>)> {
        let work = &self.groups[group];
        work.tasks.iter().zip(work.part_bounds.windows(2)).map(|(&task, bounds)| (task, bounds[0]..bounds[1]))
    }

    /// What several sequences share in the layers of `group`.
    pub fn shared(&self, group: usize) -> &SharedPrefixes {
        &self.groups[group].shared
    }

    /// Most partial results that a layer of this step has.
    pub fn max_parts(&self) -> usize {
        self.groups.iter().map(|group| group.parts.len().max(group.shared.num_rows())).max().unwrap_or(0)
    }

    /// The tokens whose keys and values `lane` stores. Two positions of a bf16 value share a word, so a
    /// share begins at an even position or at the start of a sequence.
    pub fn store_share(&self, share: Range<usize>) -> Range<usize> {
        self.even(share.start)..self.even(share.end)
    }

    fn even(&self, token: usize) -> usize {
        let splits_pair = token > 0
            && token < self.num_tokens()
            && self.positions[token] % 2 == 1
            && self.sequence_of[token] == self.sequence_of[token - 1];
        token + usize::from(splits_pair)
    }
}

impl GroupWork {
    fn fill(&mut self, step: &SchedulerOutput, window: Option<usize>, num_kv_heads: usize, num_lanes: usize) {
        self.tasks.clear();
        for (i, sequence) in step.sequences.iter().enumerate() {
            for first in (0..sequence.num_tokens()).step_by(QUERY_TILE) {
                let num_queries = QUERY_TILE.min(sequence.num_tokens() - first);
                self.tasks.extend((0..num_kv_heads).map(|kv_head| AttentionWork {
                    sequence: i,
                    kv_head,
                    first,
                    num_queries,
                }));
            }
        }
        self.split(step, window, num_lanes);
        self.cut(step, window, num_lanes);
    }

    /// Whether such shares are nearly equal, if nothing is shared.
    fn is_fair(&self, step: &SchedulerOutput, window: Option<usize>, bounds: &[usize]) -> bool {
        let costs = |tasks: &[AttentionWork]| -> usize {
            tasks.iter().map(|task| cost(task, &step.sequences[task.sequence], window, 0)).sum()
        };
        let most = bounds.windows(2).map(|share| costs(&self.tasks[share[0]..share[1]])).max().unwrap_or(0);
        16 * most * (bounds.len() - 1) <= (16 + MOST_EXCESS) * costs(&self.tasks)
    }

    /// Cuts tasks into chunks if all are single queries, too few for whole ones to balance, and some are long.
    fn split(&mut self, step: &SchedulerOutput, window: Option<usize>, num_lanes: usize) {
        self.parts.clear();
        self.part_bounds.clear();
        let is_query = |task: &AttentionWork| task.num_queries == 1;
        if !self.shared.is_empty()
            || num_lanes == 1
            || self.tasks.len() >= TASKS_PER_LANE * num_lanes
            || !self.tasks.iter().all(is_query)
        {
            return;
        }
        self.part_bounds.push(0);
        for &work in &self.tasks {
            let position = step.sequences[work.sequence].start + work.first;
            let chunks = AttentionTask::chunks_seen(position, window);
            self.parts.extend(chunks.map(|chunk| AttentionPart { work, chunk }));
            self.part_bounds.push(self.parts.len());
        }
        if self.parts.len() == self.tasks.len() {
            self.parts.clear();
        }
    }

    fn cut(&mut self, step: &SchedulerOutput, window: Option<usize>, num_lanes: usize) {
        let shared = |task: &AttentionWork| self.shared.num_chunks(task.sequence);
        let cost = |task: &AttentionWork| cost(task, &step.sequences[task.sequence], window, shared(task));
        match self.parts.len() {
            0 => self.shares.fill(|bounds| cut(self.tasks.iter().map(cost), num_lanes, bounds)),
            parts => self.shares.fill(|bounds| cut(std::iter::repeat_n(1, parts), num_lanes, bounds)),
        }
    }
}

/// Contiguous shares of nearly equal cost: (num_lanes + 1,) bounds.
pub(super) fn cut(costs: impl Iterator<Item = usize> + Clone, num_lanes: usize, bounds: &mut Vec<usize>) {
    let total: usize = costs.clone().sum();
    bounds.clear();
    bounds.push(0);
    let (mut done, mut count) = (0, 0);
    for cost in costs {
        let middle = done + cost / 2;
        while bounds.len() < num_lanes && middle * num_lanes >= total * bounds.len() {
            bounds.push(count);
        }
        done += cost;
        count += 1;
    }
    bounds.resize(num_lanes + 1, count);
}

/// Positions read, plus a share for starting a task and for each chunk that is read before.
fn cost(task: &AttentionWork, sequence: &ScheduledSequence, window: Option<usize>, shared: usize) -> usize {
    let last = sequence.start + task.first + task.num_queries;
    let read = task.num_queries * last.min(window.unwrap_or(usize::MAX)) - shared * AttentionTask::CHUNK_LEN;
    read + 64 + 16 * shared
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(lens: &[(usize, usize)]) -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        for &(start, len) in lens {
            step.push(start, &vec![0; len], RowsWanted::Last, 1, (start + len).div_ceil(BLOCK_SIZE));
        }
        step
    }

    fn near(count: usize) -> Lanes {
        Lanes { count, own_tokens: None }
    }

    /// What is read for several sequences at once is no lane's own.
    #[test]
    fn sequences_that_share_a_prefix_are_not_owned() {
        let geometry = KvGeometry::new(1, 16, &[None]);
        let lanes = Lanes { count: 2, own_tokens: Some(1) };
        let mut step = step(&[(300, 1); 4]);
        let mut plan = StepPlan::default();
        plan.fill(&step, &geometry, 2, lanes);
        assert_eq!(plan.split, Split::Sequences);
        let table = step.tables[0].clone();
        step.tables.fill(table);
        plan.fill(&step, &geometry, 2, lanes);
        assert_eq!(plan.split, Split::Tokens);
    }

    proptest! {
        /// No lane reads what another one writes, and none has much more to do than others.
        #[test]
        fn lanes_that_own_sequences_attend_to_these_alone(
            first in 0usize..2000,
            further in prop::collection::vec(0usize..400, 1..40),
            lanes in 2usize..5,
            kv_heads in 1usize..4,
            windows in prop::collection::vec(prop::option::of(1usize..300), 1..3),
        ) {
            let starts: Vec<_> = further.iter().map(|further| first + further).collect();
            let lens: Vec<_> = starts.iter().map(|&start| (start, 1)).collect();
            let mut step = step(&lens);
            let geometry = KvGeometry::new(1, 16, &windows);
            let num_groups = geometry.groups.len();
            step.tables = step.tables.iter().flat_map(|table| std::iter::repeat_n(table.clone(), num_groups)).collect();
            for (i, sequence) in step.sequences.iter_mut().enumerate() {
                sequence.tables = i * num_groups..(i + 1) * num_groups;
            }
            let mut plan = StepPlan::default();
            plan.fill(&step, &geometry, kv_heads, Lanes { count: lanes, own_tokens: Some(1) });
            let n = plan.num_tokens();
            let shares: Vec<_> =
                (0..lanes).map(|lane| plan.store_share(lane * n / lanes..(lane + 1) * n / lanes)).collect();
            let is_fair = geometry.groups.iter().all(|group| {
                let seen = |start: &usize| (start + 1).min(group.window.unwrap_or(usize::MAX)) + 64;
                let costs: Vec<usize> = shares.iter().map(|share| starts[share.clone()].iter().map(seen).sum()).collect();
                16 * costs.iter().max().unwrap() * lanes <= 17 * costs.iter().sum::<usize>()
            });
            let may_own = n > PRIVATE_TOKENS && n >= lanes;
            prop_assert_eq!(plan.split == Split::Sequences, may_own && is_fair);
            if plan.split == Split::Sequences {
                for (group, (lane, share)) in
                    (0..geometry.groups.len()).flat_map(|group| shares.iter().enumerate().map(move |lane| (group, lane)))
                {
                    let seen: Vec<_> = plan.attention(group, lane).map(|work| (work.sequence, work.kv_head)).collect();
                    let own: Vec<_> = share.clone().flat_map(|i| (0..kv_heads).map(move |head| (i, head))).collect();
                    prop_assert_eq!(seen, own);
                    prop_assert!(plan.parts(group).is_empty());
                }
            }
        }

        /// However unevenly lanes own tokens.
        #[test]
        fn what_a_lane_does_not_wait_for_is_its_own_or_was_there_before(
            lens in prop::collection::vec((0usize..100, 1usize..100), 1..6),
            cut in 0.0f64..1.0,
            kv_heads in 1usize..3,
        ) {
            let step = step(&lens);
            let mut plan = StepPlan::default();
            plan.fill(&step, &KvGeometry::new(1, 16, &[None]), kv_heads, Lanes { count: 2, own_tokens: Some(1) });
            let cut = (cut * step.num_tokens() as f64) as usize;
            for share in [0..cut, cut..step.num_tokens()].map(|share| plan.store_share(share)) {
                for work in plan.groups[0].tasks.iter().copied() {
                    let sequence = &step.sequences[work.sequence];
                    let last = sequence.start + work.first + work.num_queries - 1;
                    let read = 0..(last / 16 + 1) * 16;
                    let mut stored_now = sequence.tokens.clone().filter(|token| {
                        read.contains(&(sequence.start + token - sequence.tokens.start))
                    });
                    let is_own = plan.split.owns_tokens() && stored_now.all(|token| share.contains(&token));
                    prop_assert_eq!(plan.reads_own(&step, work, share.clone()), is_own);
                }
            }
        }

        #[test]
        fn lanes_cover_every_query_once(
            lens in prop_oneof![
                prop::collection::vec((0usize..500, 1usize..100), 1..20),
                prop::collection::vec((0usize..2000, Just(1usize)), 1..20),
            ],
            lanes in 1usize..9,
            kv_heads in 1usize..5,
            window in prop::option::of(1usize..300),
        ) {
            let step = step(&lens);
            let geometry = KvGeometry::new(1, 16, &[window]);
            let mut plan = StepPlan::default();
            plan.fill(&step, &geometry, kv_heads, near(lanes));
            let parts = plan.parts(0);
            let tasks: Vec<_> = if parts.is_empty() {
                (0..lanes).flat_map(|lane| plan.attention(0, lane)).collect()
            } else {
                let mut taken: Vec<_> = (0..lanes).flat_map(|lane| plan.parts_left(0, lane)).collect();
                taken.sort_unstable();
                prop_assert!(taken.into_iter().eq(0..parts.len()));
                plan.merges(0).map(|(task, _)| task).collect()
            };
            let mut seen = std::collections::BTreeSet::new();
            for task in tasks {
                for query in task.first..task.first + task.num_queries {
                    prop_assert!(seen.insert((task.sequence, task.kv_head, query)));
                }
            }
            prop_assert_eq!(seen.len(), kv_heads * step.num_tokens());
        }

        #[test]
        fn chunks_cover_what_queries_see(
            starts in prop::collection::vec(0usize..2000, 1..6),
            lanes in 2usize..5,
            window in prop::option::of(1usize..700),
        ) {
            let lens: Vec<_> = starts.iter().map(|&start| (start, 1)).collect();
            let mut plan = StepPlan::default();
            plan.fill(&step(&lens), &KvGeometry::new(1, 16, &[window]), 2, near(lanes));
            let mut next = 0;
            for (work, rows) in plan.merges(0).filter(|_| !plan.parts(0).is_empty()) {
                prop_assert_eq!(rows.start, next);
                next = rows.end;
                let parts = &plan.parts(0)[rows];
                let seen: Vec<_> = parts.iter().map(|part| part.chunk).collect();
                let position = starts[work.sequence];
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                prop_assert_eq!(seen, (first / 256..=position / 256).collect::<Vec<_>>());
                prop_assert!(parts.iter().all(|part| part.work == work));
            }
            prop_assert_eq!(next, plan.parts(0).len());
        }

        #[test]
        fn stores_cover_every_token_once_and_never_split_a_pair(
            lens in prop::collection::vec((0usize..50, 1usize..40), 1..10),
            lanes in 1usize..9,
        ) {
            let step = step(&lens);
            let mut plan = StepPlan::default();
            plan.fill(&step, &KvGeometry::new(1, 16, &[None]), 1, near(lanes));
            let n = plan.num_tokens();
            let mut next = 0;
            for lane in 0..lanes {
                let share = plan.store_share(lane * n / lanes..(lane + 1) * n / lanes);
                prop_assert_eq!(share.start.max(next), next.max(share.start));
                prop_assert!(share.is_empty() || share.start == next);
                next = next.max(share.end);
                let begins_mid_pair = share.start < n
                    && share.start > 0
                    && plan.positions[share.start] % 2 == 1
                    && plan.sequence_of[share.start] == plan.sequence_of[share.start - 1];
                prop_assert!(!begins_mid_pair);
            }
            prop_assert_eq!(next, n);
        }
    }
}
