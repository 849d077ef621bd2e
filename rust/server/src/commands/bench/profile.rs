//! Where the time of steps went, beside what the machine can give.

use ferrule_engine::profile::{Operation, Phase, PhaseTotals, Totals};
use serde_json::{Value, json};

use super::limits::Ceilings;
use crate::units::three_digits;

pub const PROFILE_HEADER: [&str; 10] =
    ["BATCH", "PHASE", "OPERATION", "US/STEP", "% TIME", "MB/STEP", "GB/S", "% READ", "GOPS", "% PEAK"];

/// One row per operation that took time, without the batch.
pub fn rows((phase, totals): &(Phase, PhaseTotals), ceilings: &Ceilings) -> Vec<Vec<String>> {
    timed(totals).map(|(operation, of)| row(*phase, operation, of, totals, ceilings)).collect()
}

pub fn json((phase, totals): &(Phase, PhaseTotals)) -> Value {
    let per_step = |count: f64| count / totals.num_steps as f64;
    let operation = |(operation, of): (Operation, Totals)| {
        json!({
            "operation": operation.name(),
            "seconds_per_step": per_step(of.time.as_secs_f64()),
            "bytes_per_step": per_step(of.cost.bytes as f64),
            "ops_per_step": per_step(of.cost.ops as f64),
        })
    };
    json!({
        "phase": name(*phase),
        "num_steps": totals.num_steps,
        "operations": timed(totals).map(operation).collect::<Vec<_>>(),
    })
}

fn row(phase: Phase, operation: Operation, of: Totals, totals: &PhaseTotals, ceilings: &Ceilings) -> Vec<String> {
    let (seconds, steps) = (of.time.as_secs_f64(), totals.num_steps as f64);
    let (bytes, ops) = (of.cost.bytes as f64, of.cost.ops as f64);
    // Costs that are not counted are not shown as zero.
    let counted = |count: f64, value: f64| if count > 0.0 { three_digits(value) } else { String::new() };
    vec![
        name(phase).into(),
        operation.name().into(),
        three_digits(1e6 * seconds / steps),
        three_digits(100.0 * seconds / totals.time().as_secs_f64()),
        counted(bytes, bytes / steps / 1e6),
        counted(bytes, bytes / seconds / 1e9),
        counted(bytes, 100.0 * bytes / seconds / ceilings.read),
        counted(ops, ops / seconds / 1e9),
        ceilings.ops.map_or(String::new(), |peak| counted(ops, 100.0 * ops / seconds / peak)),
    ]
}

fn timed(totals: &PhaseTotals) -> impl Iterator<Item = (Operation, Totals)> {
    let all = Operation::ALL.into_iter().map(|operation| (operation, totals.of(operation)));
    all.filter(|(_, of)| !of.time.is_zero())
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}
