//! The other road: a sequence computed alone, one token at a time, in blocks that are never given back.

use ferrule_engine::ids::{BlockId, SequenceId, TokenId};
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::runner::{ModelOutput, ModelRunner};
use ferrule_engine::sched::{RowsWanted, ScheduledSequence, SchedulerOutput, TableSlice};

/// What must come out of a request, whoever it shares the engine with.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Expected {
    pub output: Vec<TokenId>,
    /// One per prompt token.
    pub prompt_rows: Vec<Vec<f32>>,
    pub embedding: Vec<f32>,
}

/// Choice `index` takes the token of that rank, so that choices differ.
pub fn choose(row: &[f32], index: usize) -> TokenId {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order[index % row.len()] as TokenId
}

/// Positions of all groups' tables never move: table g holds the blocks g * num_blocks ..
pub fn compute(config: &NullConfig, prompt: &[TokenId], max_tokens: usize, index: usize) -> Expected {
    let num_blocks = (prompt.len() + max_tokens).div_ceil(config.block_size);
    let num_groups = NullModel::new(config.clone()).kv_geometry().groups.len();
    let mut model = NullModel::new(NullConfig { num_blocks: num_blocks * num_groups, ..config.clone() });
    let mut expected = Expected::default();
    let mut tokens = prompt.to_vec();
    for position in 0..prompt.len() + max_tokens {
        let mut step = one_token(position, tokens[position], num_blocks, num_groups);
        let row = execute(&mut model, &step).logits;
        if position + 1 == prompt.len() {
            step.sequences[0].rows = RowsWanted::Embedding;
            expected.embedding = execute(&mut model, &step).hidden;
        }
        if position + 1 == tokens.len() {
            tokens.push(choose(&row, index));
        }
        if position < prompt.len() {
            expected.prompt_rows.push(row);
        }
    }
    expected.output = tokens[prompt.len()..prompt.len() + max_tokens].to_vec();
    expected
}

fn one_token(position: usize, token: TokenId, num_blocks: usize, num_groups: usize) -> SchedulerOutput {
    let table = |group: usize| TableSlice { first_block: 0, blocks: group * num_blocks..(group + 1) * num_blocks };
    SchedulerOutput {
        sequences: vec![ScheduledSequence {
            id: SequenceId(0),
            start: position,
            num_prompt_tokens: position + 1,
            tokens: 0..1,
            tables: 0..num_groups,
            rows: RowsWanted::Last,
        }],
        tokens: vec![token],
        tables: (0..num_groups).map(table).collect(),
        block_ids: (0..(num_blocks * num_groups) as u32).map(BlockId).collect(),
        ..SchedulerOutput::default()
    }
}

fn execute(model: &mut NullModel, step: &SchedulerOutput) -> ModelOutput {
    let mut out = ModelOutput::default();
    model.execute(step, &mut out).unwrap();
    out
}
