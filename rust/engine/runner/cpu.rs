//! The CPU's model runner: weights, KV memory, activations and a pool of lanes.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::weights::layer_bytes;
use super::{CpuWeights, ModelOutput, ModelRunner, phase};
use crate::backend::cpu::{Activations, CpuLane, CpuLinear, CpuStep, Forms, Inputs, KvMemory, Lanes, Split, StepPlan};
use crate::backend::profiled::{Profiled, StepCosts};
use crate::config::{self, Cores};
use crate::error::Result;
use crate::kernels::threads::distance::Distance;
use crate::kernels::threads::pace::Pace;
use crate::kernels::threads::{Lane, Pool};
use crate::kernels::{Kernels, MatMut, partial_len};
use crate::kv::KvGeometry;
use crate::model::{LayerWeights, ModelConfig, RopeTable, forward};
use crate::profile::Profile;
use crate::sched::SchedulerOutput;
use crate::weights::packed::PendingWrite;

/// Of a layer with more bytes, few tokens do not hide that every lane reads all of it.
const SMALL_LAYER: usize = 4 << 20;

/// A decoder on the CPU.
pub struct CpuRunner {
    config: ModelConfig,
    weights: CpuWeights,
    kernels: Kernels,
    pool: Pool,
    distance: Distance,
    /// Of steps where lanes own tokens.
    pace: Pace,
    ropes: Vec<RopeTable>,
    kv: KvMemory,
    acts: Activations,
    plan: StepPlan,
    /// (max_parts, partial_len) of the largest step so far.
    partials: Vec<f32>,
    /// One per lane.
    scratch: Vec<Mutex<Vec<f32>>>,
    profile: Option<Arc<Profile>>,
    /// The weights' way to disk, if they are to be kept and are not there.
    unwritten: Option<PendingWrite>,
}

/// What a runner is made of.
pub struct CpuParts {
    pub config: ModelConfig,
    pub weights: CpuWeights,
    pub kernels: Kernels,
    pub pool: Pool,
    pub distance: Distance,
    pub kv: KvMemory,
    /// Most tokens in one step.
    pub max_tokens: usize,
    pub activations: config::Activations,
    pub profile: Option<Arc<Profile>>,
    pub unwritten: Option<PendingWrite>,
}

impl CpuRunner {
    pub fn new(parts: CpuParts) -> Self {
        let lanes = parts.pool.num_lanes();
        let inputs = inputs(&parts.weights, parts.activations, parts.kernels);
        let acts = Activations::new(&parts.config, parts.max_tokens, lanes, inputs);
        let scratch = (0..lanes).map(|_| Mutex::default()).collect();
        let ropes = parts.config.ropes.iter().map(RopeTable::new).collect();
        Self {
            config: parts.config,
            weights: parts.weights,
            kernels: parts.kernels,
            pool: parts.pool,
            distance: parts.distance,
            pace: Pace::even(lanes),
            ropes,
            kv: parts.kv,
            acts,
            plan: StepPlan::default(),
            partials: Vec::new(),
            scratch,
            profile: parts.profile,
            unwritten: parts.unwritten,
        }
    }

    /// How lanes share a step of so many tokens. Where cores are is measured only if that makes a difference.
    fn lanes(&mut self, num_tokens: usize) -> Result<Lanes> {
        let [near, far] = [Cores::Near, Cores::Far].map(|cores| Lanes::new(&self.config, self.pool.num_lanes(), cores));
        let is_small = layer_bytes(&self.weights.layers[0]) <= SMALL_LAYER;
        if near.own(num_tokens) == far.own(num_tokens) || !is_small {
            return Ok(near);
        }
        Ok(match self.distance.of(&self.pool)? {
            Cores::Near => near,
            Cores::Far => far,
        })
    }
}

/// How the model's matrices read what they multiply.
fn inputs(weights: &CpuWeights, activations: config::Activations, kernels: Kernels) -> Inputs {
    let of = |linear: &CpuLinear| linear.forms(activations, kernels);
    let mut inputs = Inputs {
        normed: of(weights.head()),
        attended: Forms::default(),
        gate: Forms::default(),
        num_orders: num_orders(weights),
    };
    for LayerWeights { qkv, attn_output, ffn, .. } in &weights.layers {
        inputs.normed = inputs.normed.or(of(qkv)).or(of(ffn.gate_up()));
        inputs.attended = inputs.attended.or(of(attn_output));
        inputs.gate = inputs.gate.or(of(ffn.down()));
    }
    inputs
}

/// Most orders of columns that the matrices of one input have.
fn num_orders(weights: &CpuWeights) -> usize {
    fn linears(layer: &LayerWeights<CpuLinear, Vec<f32>>) -> impl Iterator<Item = &CpuLinear> {
        [&layer.qkv, &layer.attn_output].into_iter().chain(layer.ffn.linears())
    }
    let all = weights.layers.iter().flat_map(linears).chain(&weights.head);
    all.map(|linear| linear.orders.len()).max().unwrap_or(0)
}

/// The step by all lanes, timed if there is a profile.
fn run(
    pool: &Pool,
    pace: &mut Pace,
    shared: &CpuStep<'_>,
    weights: &CpuWeights,
    profile: Option<&Profile>,
) -> Result<()> {
    let costs = profile.map(|_| StepCosts::new(shared.step, shared.config, shared.kv.layer(0).shape.dtype));
    let job = |lane: Lane<'_>| match &costs {
        None => forward(&CpuLane::new(lane, shared), shared.config, weights),
        Some(costs) => {
            let profile = profile.filter(|_| lane.id == 0);
            forward(&Profiled { inner: CpuLane::new(lane, shared), costs, profile }, shared.config, weights);
        }
    };
    match shared.plan.split {
        Split::Tokens => pool.run_at(pace, &job),
        // Sequences are too coarse for other shares than even ones. Lanes that share panels wait for memory, which gives one of
        // them what the other one does not take: other shares made decoding slower.
        Split::Alone | Split::Panels | Split::Sequences => pool.run(&job),
    }
}

impl ModelRunner for CpuRunner {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn kv_geometry(&self) -> &KvGeometry {
        self.kv.geometry()
    }

    fn execute(&mut self, step: &SchedulerOutput, out: &mut ModelOutput) -> Result<()> {
        if let Some(profile) = &self.profile {
            profile.begin_step(phase(step));
        }
        self.kv.copy(&step.copies);
        let lanes = self.lanes(step.num_tokens())?;
        self.plan.fill(step, self.kv.geometry(), self.config.num_kv_heads, lanes);
        self.plan.fill_angles(&self.ropes);
        out.vocab_size = self.config.vocab_size;
        out.hidden_size = self.config.hidden_size;
        out.logits.resize(self.plan.logit_rows.len() * out.vocab_size, 0.0);
        out.hidden.resize(self.plan.hidden_rows.len() * out.hidden_size, 0.0);
        let partial_len = partial_len(self.config.num_heads / self.config.num_kv_heads, self.config.head_dim);
        self.partials.resize(self.plan.max_parts() * partial_len, 0.0);
        let shared = CpuStep {
            kernels: self.kernels,
            config: &self.config,
            kv: &self.kv,
            acts: &self.acts,
            step,
            plan: &self.plan,
            logits: matrix(&mut out.logits, out.vocab_size),
            hidden: matrix(&mut out.hidden, out.hidden_size),
            partials: matrix(&mut self.partials, partial_len),
            scratch: &self.scratch,
        };
        let done = run(&self.pool, &mut self.pace, &shared, &self.weights, self.profile.as_deref());
        if let Some(profile) = &self.profile {
            profile.end_step();
        }
        done
    }

    fn spread(&mut self, count: usize, work: &(dyn Fn(usize) + Sync)) -> Result<()> {
        if count < 2 {
            (0..count).for_each(work);
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < count);
        self.pool.run(&|_| std::iter::from_fn(take).for_each(work))
    }

    fn idle(&mut self) {
        if let Some(write) = &mut self.unwritten {
            write.start();
        }
    }
}

fn matrix(data: &mut [f32], cols: usize) -> MatMut<'_> {
    MatMut { ptr: data.as_mut_ptr(), rows: data.len() / cols, stride: cols, _life: PhantomData }
}
