//! Who runs in the next step.

use super::chunk::{Chunk, Room};
use super::demand::Demands;
use super::live::{Live, LiveSequences, Slot};
use super::queue::Queue;
use super::{ChosenToken, RowsWanted, ScheduledSequence, SchedulerOutput, TableSlice};
use crate::config::Policy;
use crate::ids::{BlockId, SequenceId, TokenId};
use crate::kv::{AdmissionQuery, BlockManager, BlockState, BlockTable, KvGeometry, SequenceKv};
use crate::sequence::Sequence;

#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Token budget of one step.
    pub max_num_batched_tokens: usize,
    pub policy: Policy,
    pub enable_prefix_caching: bool,
    /// Most rows of logits in one step.
    pub max_logit_rows: usize,
}

/// Decides; computes nothing, and knows no clock, device or channel.
///
/// Running sequences come first, in the order of their rank, then waiting ones in theirs; a long prompt leaves a
/// part of the step to much shorter ones ([`Demands::divide`]). When blocks run out the running sequence of the
/// last rank is preempted: it loses its blocks, to host memory where there is room, and waits again at its rank. So the first in rank always gets on,
/// finishes, and makes room: nobody starves who fits alone.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    kv: BlockManager,
    live: LiveSequences,
    waiting: Queue,
    running: Queue,
    demands: Demands,
    /// Of `max_num_seqs`: running sequences, and their choices that are not forked yet.
    num_slots: usize,
    num_arrivals: u64,
    num_preemptions: u64,
    num_swapped_blocks: u64,
    prefix_cache_queries: u64,
    prefix_cache_hits: u64,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig, geometry: KvGeometry) -> Self {
        assert!(config.max_num_batched_tokens > 0 && config.max_logit_rows > 0, "a step has room for a token");
        Self {
            kv: BlockManager::new(&geometry, config.enable_prefix_caching),
            config,
            live: LiveSequences::default(),
            waiting: Queue::default(),
            running: Queue::default(),
            demands: Demands::default(),
            num_slots: 0,
            num_arrivals: 0,
            num_preemptions: 0,
            num_swapped_blocks: 0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
        }
    }

    /// To the waiting queue. The caller has checked that it can fit alone: see [`Self::max_tokens_alone`].
    pub fn add(&mut self, mut sequence: Sequence) {
        assert!(sequence.num_slots() <= self.config.max_num_seqs, "more choices than may run at once");
        assert!(sequence.tokens().len() <= self.max_tokens_alone(), "a sequence that can never fit");
        sequence.set_arrival(self.num_arrivals);
        self.num_arrivals += 1;
        let rank = sequence.rank();
        let slot = self.live.insert(sequence, None);
        self.waiting.insert(rank, slot);
    }

    /// Longest sequence that the pool can hold alone, in tokens, over all groups.
    pub fn max_tokens_alone(&self) -> usize {
        self.kv.max_tokens_alone()
    }

    /// Fills `out` with the next step; empty if nothing can run. Decides only: counters move in `commit`,
    /// except that admission and preemption set them to what the prefix cache has.
    pub fn schedule(&mut self, out: &mut SchedulerOutput) {
        out.clear();
        let mut room = Room {
            num_tokens: self.config.max_num_batched_tokens,
            num_logit_rows: self.config.max_logit_rows,
            num_promised_blocks: 0,
        };
        let num_running = self.running.len();
        let may_admit = self.config.policy.admits(num_running);
        self.demands.clear();
        self.collect_running(&room);
        if may_admit {
            self.collect_waiting(&room);
        }
        self.demands.divide(room.num_tokens);
        self.schedule_running(&mut room, out);
        if may_admit && out.preempted.is_empty() {
            self.schedule_waiting(num_running, &mut room, out);
        }
    }

    /// Whether the next step finds blocks for all that it may compute of running sequences, so that nobody is preempted.
    /// A sequence whose last token only the device knows cannot be: it has to be computed again from tokens.
    pub fn can_run_ahead(&self) -> bool {
        let budget = self.config.max_num_batched_tokens;
        let needed = |(_, slot)| {
            let Live { sequence, kv, .. } = self.live.get(slot);
            let start = sequence.num_computed_tokens();
            let end = start + sequence.num_remaining_tokens().min(budget);
            self.kv.blocks_needed(kv.as_ref().expect("it runs"), start..end)
        };
        self.running.iter().map(needed).sum::<usize>() <= self.kv.num_free_blocks()
    }

    /// The step was executed, or its device will execute it before any other: counters advance, full blocks are published to the prefix cache, and
    /// blocks that left a sliding window go back. Sequences that were finished meanwhile are passed over.
    pub fn commit(&mut self, step: &SchedulerOutput) {
        for scheduled in &step.sequences {
            let Some(slot) = self.live.slot(scheduled.id) else { continue };
            let Live { sequence, kv, .. } = self.live.get_mut(slot);
            assert_eq!(sequence.num_computed_tokens(), scheduled.start, "a step is committed once, and in order");
            let num_computed = scheduled.context_len();
            sequence.advance_to(num_computed, scheduled.rows == RowsWanted::All);
            let kv = kv.as_mut().expect("a scheduled sequence runs");
            self.kv.publish(kv, sequence.tokens(), num_computed);
            self.kv.slide(kv, num_computed);
        }
    }

    /// A sampled token. Only after the commit of the step that computed all earlier tokens.
    pub fn append(&mut self, id: SequenceId, token: TokenId) {
        self.at_end(id).push(token);
    }

    /// The device has sampled a token as its choice `choice`, and can compute it: `append` says later which one it is.
    pub fn expect(&mut self, id: SequenceId, choice: usize) {
        let sequence = self.at_end(id);
        assert_eq!(sequence.chosen(), None, "sequence {id}: the token before is not known yet");
        sequence.expect(choice);
    }

    /// A sequence all of whose known tokens are computed.
    fn at_end(&mut self, id: SequenceId) -> &mut Sequence {
        let slot = self.live.slot(id).expect("tokens are appended to live sequences");
        let sequence = &mut self.live.get_mut(slot).sequence;
        let (num_computed, num_tokens) = (sequence.num_computed_tokens(), sequence.tokens().len());
        assert_eq!(num_computed, num_tokens, "sequence {id}: earlier tokens are not computed yet");
        sequence
    }

    /// What the sequence has in host memory never arrived there: it is computed again.
    pub fn forget_swapped(&mut self, id: SequenceId) {
        let Some(slot) = self.live.slot(id) else { return };
        let Live { sequence, swapped, .. } = self.live.get_mut(slot);
        if let Some(swapped) = swapped.take() {
            sequence.start_again();
            self.kv.free_swapped(swapped);
        }
    }

    /// Forgets what blocks hold, when none is in use: the device may have failed while it wrote them.
    pub fn forget_cached(&mut self) {
        self.kv.forget_cached();
    }

    /// Choice `index` as a sequence of its own that shares all blocks, copied on write. It has the
    /// parent's tokens and counters: fork before `append`.
    pub fn fork(&mut self, parent: SequenceId, child: SequenceId, index: usize) {
        let slot = self.live.slot(parent).expect("live sequences are forked");
        let Live { sequence, kv, .. } = self.live.get_mut(slot);
        let kv = self.kv.fork(kv.as_ref().expect("running sequences are forked"));
        let sequence = sequence.fork(child, index);
        let rank = sequence.rank();
        let slot = self.live.insert(sequence, Some(kv));
        self.running.insert(rank, slot);
    }

    /// Ends a sequence in any state and releases its blocks. None: unknown id.
    pub fn finish(&mut self, id: SequenceId) -> Option<Sequence> {
        let Live { sequence, kv, swapped } = self.live.remove(id)?;
        match kv {
            Some(kv) => {
                self.running.remove(sequence.rank());
                self.num_slots -= sequence.num_slots();
                self.kv.free(kv);
            }
            None => self.waiting.remove(sequence.rank()),
        }
        if let Some(swapped) = swapped {
            self.kv.free_swapped(swapped);
        }
        Some(sequence)
    }

    pub fn get(&self, id: SequenceId) -> Option<&Sequence> {
        Some(&self.live.get(self.live.slot(id)?).sequence)
    }

    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn num_blocks(&self) -> usize {
        self.kv.num_blocks()
    }

    /// Blocks that some sequence holds; cached blocks that nobody holds are not counted.
    pub fn num_used_blocks(&self) -> usize {
        self.kv.num_used_blocks()
    }

    /// Of all blocks, in the order of their ids.
    pub fn block_states(&self) -> impl Iterator<Item = BlockState> + '_ {
        self.kv.block_states()
    }

    /// The blocks of a sequence, over all groups; none while it waits.
    pub fn blocks_of(&self, id: SequenceId) -> impl Iterator<Item = BlockId> + '_ {
        let kv = self.live.slot(id).and_then(|slot| self.live.get(slot).kv.as_ref());
        kv.into_iter().flat_map(SequenceKv::tables).flat_map(BlockTable::blocks).copied()
    }

    pub fn num_preemptions(&self) -> u64 {
        self.num_preemptions
    }

    /// Blocks that went to host memory.
    pub fn num_swapped_blocks(&self) -> u64 {
        self.num_swapped_blocks
    }

    /// Tokens looked up in the prefix cache, by sequences that were admitted for the first time.
    pub fn prefix_cache_queries(&self) -> u64 {
        self.prefix_cache_queries
    }

    /// Tokens found in the prefix cache, of those looked up.
    pub fn prefix_cache_hits(&self) -> u64 {
        self.prefix_cache_hits
    }

    pub fn has_work(&self) -> bool {
        self.live.len() > 0
    }

    /// Asserts everything that must hold between two calls.
    pub fn check_invariants(&self) {
        self.kv.check_invariants(self.live.iter().filter_map(|live| live.kv.as_ref()));
        self.kv.check_host_invariants(self.live.iter().filter_map(|live| live.swapped.as_ref()));
        assert_eq!(self.live.len(), self.waiting.len() + self.running.len());
        for (queue, runs) in [(&self.waiting, false), (&self.running, true)] {
            assert!(queue.iter().is_sorted_by(|a, b| a.0 < b.0), "a queue is out of order");
            for (rank, slot) in queue.iter() {
                let live = self.live.get(slot);
                assert_eq!((live.sequence.rank(), live.kv.is_some()), (rank, runs));
                assert!(!runs || live.swapped.is_none(), "a running sequence has blocks elsewhere");
                let has_none = !runs && live.swapped.is_none();
                assert!(!has_none || live.sequence.num_computed_tokens() == 0, "a waiting sequence has blocks");
            }
        }
        let num_slots: usize = self.running.iter().map(|(_, slot)| self.live.get(slot).sequence.num_slots()).sum();
        assert_eq!(self.num_slots, num_slots);
        assert!(num_slots <= self.config.max_num_seqs, "more sequences run than may");
    }

    fn collect_running(&mut self, room: &Room) {
        for (_, slot) in self.running.iter() {
            let chunk = Chunk::next(&self.live.get(slot).sequence, usize::MAX, room);
            self.demands.push(slot, chunk.num_tokens, true);
        }
    }

    /// As many as there may be slots and blocks for.
    fn collect_waiting(&mut self, room: &Room) {
        let (mut num_slots, mut num_blocks) = (self.num_slots, 0);
        for (_, slot) in self.waiting.iter() {
            let Live { sequence, swapped, .. } = self.live.get(slot);
            num_slots += sequence.num_slots();
            if num_slots > self.config.max_num_seqs || num_blocks > self.kv.num_free_blocks() {
                return;
            }
            let hit_len = if swapped.is_some() { 0 } else { self.kv.hit_len(&admission_query(sequence, 0)) };
            let num_tokens = Chunk::next(sequence, usize::MAX, room).num_tokens.saturating_sub(hit_len).max(1);
            let first = self.demands.first_long().map(|first| &self.live.get(first.slot).sequence);
            let next_hit_len = hit_len + self.kv.block_size();
            let waits_for_hit = self.config.enable_prefix_caching
                && swapped.is_none()
                && first.is_some_and(|first| will_share(first, sequence, next_hit_len));
            self.demands.push(slot, num_tokens, !waits_for_hit);
            num_blocks += self.kv.blocks_alone(sequence.tokens().len() - hit_len);
        }
    }

    fn schedule_running(&mut self, room: &mut Room, out: &mut SchedulerOutput) {
        let mut position = 0;
        while let Some(slot) = self.running.get(position) {
            let share = self.demands.get(position).expect("a running sequence has a demand").share;
            position += 1;
            while !self.place(slot, share, room, out) {
                if position == self.running.len() {
                    self.place_part(slot, share, room, out);
                    break;
                }
                self.preempt_last(out);
            }
        }
    }

    /// Head of the line first: a sequence that does not fit holds up the ones behind it, or it might wait forever.
    /// One that lacks tokens alone may be overtaken, but keeps the slots and blocks that it needs.
    fn schedule_waiting(&mut self, first: usize, room: &mut Room, out: &mut SchedulerOutput) {
        let beyond_budget = self.config.policy.admits_beyond_budget();
        let mut position = first;
        while let Some(demand) = self.demands.get(position) {
            position += 1;
            if demand.share == 0 && !beyond_budget {
                let num_tokens = self.live.get(demand.slot).sequence.tokens().len();
                room.num_promised_blocks += self.kv.blocks_alone(num_tokens) + self.kv.num_growing_groups();
                continue;
            }
            if (room.num_logit_rows == 0 && !beyond_budget) || !self.admit(demand.slot, room, out) {
                return;
            }
            self.place_part(demand.slot, demand.share, room, out);
        }
    }

    /// From waiting to running, if all the sequence's tokens will find blocks without a preemption.
    fn admit(&mut self, slot: Slot, room: &Room, out: &mut SchedulerOutput) -> bool {
        let Live { sequence, kv, swapped } = self.live.get_mut(slot);
        if self.num_slots + sequence.num_slots() > self.config.max_num_seqs {
            return false;
        }
        // One block more per running sequence, or its growth might throw the newcomer out at once.
        let headroom = self.running.len() * self.kv.num_growing_groups();
        let query = admission_query(sequence, room.num_promised_blocks + headroom);
        if let Some(waiting) = swapped.take() {
            match self.kv.swap_in(waiting, &query, &mut out.swaps_in) {
                Ok(back) => *kv = Some(back),
                Err(waiting) => *swapped = Some(waiting),
            }
        } else if let Some((admitted, num_hit_tokens)) = self.kv.admit(&query) {
            if sequence.num_preemptions() == 0 && query.max_hit_len > 0 && self.config.enable_prefix_caching {
                self.prefix_cache_queries += query.tokens.len() as u64;
                self.prefix_cache_hits += num_hit_tokens as u64;
            }
            *kv = Some(admitted);
            sequence.admit(num_hit_tokens);
        }
        if kv.is_none() {
            return false;
        }
        self.num_slots += sequence.num_slots();
        let rank = sequence.rank();
        self.waiting.remove(rank);
        self.running.insert(rank, slot);
        true
    }

    /// Schedules up to `max_tokens` of a running sequence. False: the pool has too few blocks for them.
    fn place(&mut self, slot: Slot, max_tokens: usize, room: &mut Room, out: &mut SchedulerOutput) -> bool {
        let Live { sequence, kv, .. } = self.live.get_mut(slot);
        let kv = kv.as_mut().expect("only running sequences are placed");
        let chunk = Chunk::next(sequence, max_tokens, room);
        let end = sequence.num_computed_tokens() + chunk.num_tokens;
        if chunk.num_tokens > 0 {
            if !self.kv.allocate(kv, sequence.num_computed_tokens()..end, &mut out.copies) {
                return false;
            }
            push_scheduled(sequence, kv, chunk, out);
            room.num_tokens -= chunk.num_tokens;
            room.num_logit_rows -= chunk.num_logit_rows();
        }
        if end < sequence.computable_len() {
            room.num_promised_blocks += self.kv.blocks_lacking(kv, sequence.computable_len());
        }
        true
    }

    /// As many of `max_tokens` as the free blocks allow, perhaps none; it keeps its blocks and its turn.
    fn place_part(&mut self, slot: Slot, mut max_tokens: usize, room: &mut Room, out: &mut SchedulerOutput) {
        while !self.place(slot, max_tokens, room, out) {
            max_tokens /= 2;
        }
    }

    fn preempt_last(&mut self, out: &mut SchedulerOutput) {
        let slot = self.running.last().expect("a victim runs");
        let Live { sequence, kv, swapped } = self.live.get_mut(slot);
        assert_eq!(sequence.chosen(), None, "a victim knows its tokens: see `can_run_ahead`");
        let num_swaps = out.swaps_out.len();
        *swapped = self.kv.swap_out(kv.take().expect("a victim runs"), &mut out.swaps_out);
        sequence.preempt(swapped.is_some());
        self.num_swapped_blocks += (out.swaps_out.len() - num_swaps) as u64;
        self.num_preemptions += 1;
        self.num_slots -= sequence.num_slots();
        self.running.remove(sequence.rank());
        self.waiting.insert(sequence.rank(), slot);
        out.preempted.push(sequence.id());
    }
}

fn admission_query(sequence: &Sequence, num_promised: usize) -> AdmissionQuery<'_> {
    AdmissionQuery {
        tokens: sequence.tokens(),
        salt: sequence.salt(),
        max_hit_len: sequence.max_hit_len(),
        num_promised,
    }
}

/// Will `first` still compute the end of the first `len` tokens of `other`, to be found in the cache then?
fn will_share(first: &Sequence, other: &Sequence, len: usize) -> bool {
    len <= other.max_hit_len()
        && first.num_computed_tokens() < len
        && first.salt() == other.salt()
        && first.tokens().get(..len) == other.tokens().get(..len)
}

fn push_scheduled(sequence: &Sequence, kv: &SequenceKv, chunk: Chunk, out: &mut SchedulerOutput) {
    let start = sequence.num_computed_tokens();
    let (first_token, first_table) = (out.tokens.len(), out.tables.len());
    let end = start + chunk.num_tokens;
    out.tokens.extend_from_slice(&sequence.tokens()[start..end.min(sequence.tokens().len())]);
    if end > sequence.tokens().len() {
        let choice = sequence.chosen().expect("a token that is scheduled was chosen");
        out.chosen.push(ChosenToken { token: out.tokens.len(), choice });
        out.tokens.push(0);
    }
    for table in kv.tables() {
        let first_id = out.block_ids.len();
        out.block_ids.extend_from_slice(table.blocks());
        out.tables.push(TableSlice { first_block: table.first_block(), blocks: first_id..out.block_ids.len() });
    }
    out.sequences.push(ScheduledSequence {
        id: sequence.id(),
        start,
        num_prompt_tokens: sequence.prompt().len(),
        tokens: first_token..out.tokens.len(),
        tables: first_table..out.tables.len(),
        rows: chunk.rows,
    });
}
