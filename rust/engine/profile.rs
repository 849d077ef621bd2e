//! Where the time of steps goes, by operation.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a step is made of. An operation's time includes waiting for the other lanes at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Embed,
    Norm,
    Qkv,
    RopeAndStore,
    Attention,
    Output,
    GateUp,
    Down,
    Head,
    /// Waking the lanes, and preparing what they share.
    StepOverhead,
    /// Sampling, scheduling and events, from the end of one step to the start of the next.
    BetweenSteps,
}

impl Operation {
    pub const ALL: [Self; 11] = [
        Self::Embed,
        Self::Norm,
        Self::Qkv,
        Self::RopeAndStore,
        Self::Attention,
        Self::Output,
        Self::GateUp,
        Self::Down,
        Self::Head,
        Self::StepOverhead,
        Self::BetweenSteps,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Norm => "add, norm",
            Self::Qkv => "qkv",
            Self::RopeAndStore => "rope, store",
            Self::Attention => "attention",
            Self::Output => "output",
            Self::GateUp => "gate, up",
            Self::Down => "down",
            Self::Head => "head",
            Self::StepOverhead => "step overhead",
            Self::BetweenSteps => "between steps",
        }
    }
}

/// Steps with prompt tokens and steps that only decode are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Prefill,
    Decode,
}

/// What the shape says an operation must do: weights, keys and values that it reads, and its multiplications and
/// additions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub ops: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub time: Duration,
    pub cost: Cost,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseTotals {
    pub num_steps: u64,
    totals: [Totals; Operation::ALL.len()],
}

impl PhaseTotals {
    pub fn of(&self, operation: Operation) -> Totals {
        self.totals[operation as usize]
    }

    pub fn time(&self) -> Duration {
        self.totals.iter().map(|totals| totals.time).sum()
    }

    fn add(&mut self, operation: Operation, time: Duration, cost: Cost) {
        let totals = &mut self.totals[operation as usize];
        totals.time += time;
        totals.cost.bytes += cost.bytes;
        totals.cost.ops += cost.ops;
    }
}

/// Counters that an engine fills while somebody else may look.
#[derive(Debug, Default)]
pub struct Profile(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    phases: [PhaseTotals; 2],
    step: Option<Step>,
    /// The last step's phase and end.
    last: Option<(Phase, Instant)>,
}

#[derive(Debug)]
struct Step {
    phase: Phase,
    start: Instant,
    /// Of its operations so far.
    time: Duration,
}

impl Profile {
    /// What was counted since the last call, by phase.
    pub fn take(&self) -> [(Phase, PhaseTotals); 2] {
        let [prefill, decode] = std::mem::take(&mut *self.lock()).phases;
        [(Phase::Prefill, prefill), (Phase::Decode, decode)]
    }

    pub fn begin_step(&self, phase: Phase) {
        let start = Instant::now();
        let mut state = self.lock();
        if let Some((phase, end)) = state.last.take() {
            state.phases[phase as usize].add(Operation::BetweenSteps, start - end, Cost::default());
        }
        state.step = Some(Step { phase, start, time: Duration::ZERO });
    }

    pub fn add(&self, operation: Operation, time: Duration, cost: Cost) {
        let state = &mut *self.lock();
        if let Some(step) = &mut state.step {
            step.time += time;
            state.phases[step.phase as usize].add(operation, time, cost);
        }
    }

    pub fn end_step(&self) {
        let end = Instant::now();
        let state = &mut *self.lock();
        if let Some(step) = state.step.take() {
            let overhead = (end - step.start).saturating_sub(step.time);
            let phase = &mut state.phases[step.phase as usize];
            phase.add(Operation::StepOverhead, overhead, Cost::default());
            phase.num_steps += 1;
            state.last = Some((step.phase, end));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_lie_at_their_own_index() {
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, i, "{}", operation.name());
        }
    }

    #[test]
    fn steps_are_counted_in_their_phase_and_taken_once() {
        let profile = Profile::default();
        let cost = Cost { bytes: 10, ops: 20 };
        for phase in [Phase::Prefill, Phase::Decode, Phase::Decode] {
            profile.begin_step(phase);
            profile.add(Operation::Qkv, Duration::from_nanos(1), cost);
            profile.add(Operation::Qkv, Duration::from_nanos(2), cost);
            profile.end_step();
        }
        let [(_, prefill), (_, decode)] = profile.take();
        assert_eq!((prefill.num_steps, decode.num_steps), (1, 2));
        assert_eq!(decode.of(Operation::Qkv).cost, Cost { bytes: 40, ops: 80 });
        assert_eq!(prefill.of(Operation::Qkv).time, Duration::from_nanos(3));
        let parts = [Operation::Qkv, Operation::StepOverhead, Operation::BetweenSteps].map(|op| decode.of(op).time);
        assert_eq!(decode.time(), parts.iter().sum());
        assert_eq!(profile.take()[1].1, PhaseTotals::default());
    }

    #[test]
    fn time_without_a_step_is_nobodys() {
        let profile = Profile::default();
        profile.add(Operation::Head, Duration::from_secs(1), Cost::default());
        profile.end_step();
        assert!(profile.take().iter().all(|(_, phase)| *phase == PhaseTotals::default()));
    }
}
