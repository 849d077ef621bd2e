//! A step that is computed operation by operation, whose activations can be looked at in between: calibration.

use std::sync::{Mutex, PoisonError};

use super::{Activations, CpuLane, CpuLinear, CpuStep, Forms, Inputs, KvMemory, Lanes, StepPlan};
use crate::backend::{Act, Backend, HeadTransform};
use crate::config::{Cores, KvDtype};
use crate::error::Result;
use crate::ids::TokenId;
use crate::kernels::threads::Pool;
use crate::kernels::{BLOCK_SIZE, Kernels, KvShape, MatMut};
use crate::kv::KvGeometry;
use crate::model::{Activation, ExpertsConfig, LayerConfig, ModelConfig, RopeTable};
use crate::sched::{RowsWanted, SchedulerOutput};

/// Whole sequences in one step of float32, one layer at a time: the layer that `enter` named is layer 0 of every
/// operation.
pub struct Session {
    kernels: Kernels,
    pool: Pool,
    /// With one layer.
    config: ModelConfig,
    kv: KvMemory,
    acts: Activations,
    step: SchedulerOutput,
    plan: StepPlan,
    ropes: Vec<RopeTable>,
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Session {
    /// `sequences` have 3 tokens or more together.
    pub fn new(config: &ModelConfig, sequences: &[Vec<TokenId>], kernels: Kernels, pool: Pool) -> Result<Self> {
        let step = step(sequences);
        assert!(step.num_tokens() > super::activations::PRIVATE_TOKENS, "too few tokens for lanes to share");
        let config = ModelConfig { layers: config.layers[..1].to_vec(), ..config.clone() };
        let lanes = pool.num_lanes();
        let forms = Forms::FLOAT32;
        let inputs = Inputs { normed: forms, attended: forms, gate: forms, num_orders: 0 };
        let mut session = Self {
            acts: Activations::new(&config, step.num_tokens(), lanes, inputs),
            kv: kv_memory(&config, step.block_ids.len())?,
            plan: StepPlan::default(),
            ropes: config.ropes.iter().map(RopeTable::new).collect(),
            scratch: (0..lanes).map(|_| Mutex::default()).collect(),
            kernels,
            pool,
            config,
            step,
        };
        session.enter(session.config.layers[0].clone())?;
        Ok(session)
    }

    /// From now on operations are those of a layer of this kind.
    pub fn enter(&mut self, layer: LayerConfig) -> Result<()> {
        self.config.layers = vec![layer];
        self.kv = kv_memory(&self.config, self.step.block_ids.len())?;
        let lanes = Lanes::new(&self.config, self.pool.num_lanes(), Cores::Near);
        self.plan.fill(&self.step, self.kv.geometry(), self.config.num_kv_heads, lanes);
        self.plan.fill_angles(&self.ropes);
        Ok(())
    }

    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn num_tokens(&self) -> usize {
        self.step.num_tokens()
    }

    /// (num_tokens, width) of what products read, or of the residual stream.
    pub fn activations(&self, act: Act) -> &[f32] {
        let shared = match act {
            Act::Residual => &self.acts.stream.residual,
            Act::Normed => &self.acts.stream.normed,
            Act::Attended => &self.acts.attended,
            Act::Gate => self.acts.gate.as_ref().expect("sessions keep the gate as float32"),
            Act::Qkv => &self.acts.qkv,
            Act::Projected => &self.acts.projected,
        };
        // SAFETY: lanes write only while an operation runs, and operations run to their end within a call.
        unsafe { shared.rows(0..self.num_tokens()) }
    }

    /// Rows of `act` that an expert's matrices read, after `route`: those of its tokens, or of all where it has none.
    pub fn expert_activations(&self, act: Act, expert: usize) -> &[f32] {
        let experts = self.acts.experts.as_ref().expect("a model with experts has activations for them");
        let routes = experts.routes.read().unwrap_or_else(PoisonError::into_inner);
        let shared = match act {
            Act::Normed => &experts.input,
            Act::Gate => self.acts.gate.as_ref().expect("sessions keep the gate as float32"),
            other => panic!("experts do not read {other:?}"),
        };
        let mut rows = routes.of(expert);
        if rows.is_empty() {
            rows = 0..routes.num_entries();
        }
        // SAFETY: as in `activations`.
        unsafe { shared.rows(rows) }
    }

    /// Begins in the middle: `residual` is (num_tokens, hidden_size).
    pub fn set_residual(&mut self, residual: &[f32]) {
        for (token, row) in residual.chunks_exact(self.config.hidden_size).enumerate() {
            // SAFETY: no operation runs.
            unsafe { self.acts.stream.residual.row_mut(token) }.copy_from_slice(row);
        }
    }

    fn run(&self, operation: impl Fn(&CpuLane<'_>) + Sync) {
        let empty = || MatMut::part(&mut [], 1, 0, 0);
        let shared = CpuStep {
            kernels: self.kernels,
            config: &self.config,
            kv: &self.kv,
            acts: &self.acts,
            step: &self.step,
            plan: &self.plan,
            logits: empty(),
            hidden: empty(),
            partials: empty(),
            scratch: &self.scratch,
        };
        let done = self.pool.run(&|lane| operation(&CpuLane::new(lane, &shared)));
        done.unwrap_or_else(|err| panic!("{err}"));
    }
}

/// One lane, whose operations are those of all lanes of the pool.
impl Backend for Session {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;

    fn embed(&self, table: &CpuLinear, scale: Option<f32>) {
        self.run(|lane| lane.embed(table, scale));
    }

    fn norm(&self, weight: &Vec<f32>) {
        self.run(|lane| lane.norm(weight));
    }

    fn linear(&self, weight: &CpuLinear, input: Act) {
        self.run(|lane| lane.linear(weight, input));
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<Vec<f32>>) {
        self.run(|lane| lane.rotate_and_store(layer, heads));
    }

    fn attend(&self, layer: usize) {
        self.run(|lane| lane.attend(layer));
    }

    fn gated_linear(&self, weight: &CpuLinear, activation: Activation) {
        self.run(|lane| lane.gated_linear(weight, activation));
    }

    fn route(&self, router: &CpuLinear, experts: ExpertsConfig) {
        self.run(|lane| lane.route(router, experts));
    }

    fn gated_experts(&self, weight: &CpuLinear, experts: ExpertsConfig, activation: Activation) {
        self.run(|lane| lane.gated_experts(weight, experts, activation));
    }

    fn sum_experts(&self, weight: &CpuLinear, experts: ExpertsConfig) {
        self.run(|lane| lane.sum_experts(weight, experts));
    }

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        self.run(|lane| lane.add_and_norm(post, next));
    }

    fn head(&self, norm: &Vec<f32>, head: &CpuLinear, softcap: Option<f32>) {
        self.run(|lane| lane.head(norm, head, softcap));
    }
}

/// Every sequence from its first token to its last, in blocks of its own.
fn step(sequences: &[Vec<TokenId>]) -> SchedulerOutput {
    let mut step = SchedulerOutput::default();
    for tokens in sequences {
        step.push(0, tokens, RowsWanted::None, 1, tokens.len().div_ceil(BLOCK_SIZE));
    }
    step
}

fn kv_memory(config: &ModelConfig, num_blocks: usize) -> Result<KvMemory> {
    let geometry = KvGeometry::new(num_blocks, BLOCK_SIZE, &[config.layers[0].window]);
    let shape = KvShape { dtype: KvDtype::F32, num_kv_heads: config.num_kv_heads, head_dim: config.head_dim };
    KvMemory::new(geometry, shape)
}
