//! A GPU's model runner: weights, KV cache and activations on the device, steps in a stream.

use std::cell::RefCell;
use std::sync::Arc;

use half::bf16;

use super::{DeviceRunner, ModelOutput, ModelRunner, phase};
use crate::backend::profiled::{Profiled, StepCosts};
use crate::config::KvDtype;
use crate::cuda::arrays::{DeviceArrays, Place};
use crate::cuda::backend::{AttentionWork, CudaStep};
use crate::cuda::cublaslt::CublasLt;
use crate::cuda::driver::{Context, PinnedBuffer, Stream};
use crate::cuda::graph::{Graphs, only_decodes, padded};
use crate::cuda::heads::HeadPadding;
use crate::cuda::launch::{AttentionShape, Kernels, Queries};
use crate::cuda::memory::{Activations, Capacity, KvCache, Rotations};
use crate::cuda::sampler::Sampler;
use crate::cuda::step::{StepSize, decodes, prompts};
use crate::cuda::weights::CudaWeights;
use crate::error::Result;
use crate::ids::TokenId;
use crate::kv::KvGeometry;
use crate::model::{ModelConfig, forward};
use crate::profile::Profile;
use crate::sample::SamplePlan;
use crate::sched::SchedulerOutput;

/// A decoder on a GPU.
pub struct CudaRunner {
    context: Arc<Context>,
    /// With padded heads.
    config: ModelConfig,
    padding: HeadPadding,
    capacity: Capacity,
    kernels: Kernels,
    cublaslt: Option<CublasLt>,
    weights: CudaWeights,
    rotations: Vec<Rotations>,
    kv: KvCache,
    acts: Activations,
    compute: Stream,
    uploads: Stream,
    arrays: DeviceArrays,
    graphs: Graphs,
    work: AttentionWork,
    /// Of the step that was launched last.
    num_logit_rows: usize,
    num_hidden_rows: usize,
    sampler: Sampler,
    /// (num_logit_rows, vocab_size)
    logits: PinnedBuffer<f32>,
    /// (num_seqs, hidden_size)
    hidden: PinnedBuffer<bf16>,
    profile: Option<Arc<Profile>>,
}

/// What a runner is made of.
pub struct CudaParts {
    pub context: Arc<Context>,
    /// With padded heads.
    pub config: ModelConfig,
    pub padding: HeadPadding,
    pub capacity: Capacity,
    pub kernels: Kernels,
    pub cublaslt: Option<CublasLt>,
    pub weights: CudaWeights,
    pub geometry: KvGeometry,
    pub kv_dtype: KvDtype,
    pub profile: Option<Arc<Profile>>,
}

impl CudaRunner {
    pub fn new(parts: CudaParts) -> Result<Self> {
        let CudaParts { context, config, padding, capacity, kernels, cublaslt, weights, geometry, kv_dtype, profile } =
            parts;
        let &ModelConfig { num_heads, num_kv_heads, head_dim, .. } = &config;
        let largest = StepSize::largest(capacity.num_tokens, capacity.num_seqs, capacity.max_len, &geometry);
        let rotations = config.ropes.iter().map(|rope| Rotations::new(&context, rope, capacity.max_len));
        Ok(Self {
            rotations: rotations.collect::<Result<_>>()?,
            kv: KvCache::new(&context, geometry, AttentionShape { num_heads, num_kv_heads, head_dim, kv_dtype })?,
            acts: Activations::new(&context, &config, &capacity)?,
            compute: Stream::new(&context)?,
            uploads: Stream::new(&context)?,
            arrays: DeviceArrays::new(&context, &largest)?,
            graphs: Graphs::default(),
            work: AttentionWork::default(),
            num_logit_rows: 0,
            num_hidden_rows: 0,
            sampler: Sampler::new(&context, capacity.max_choices)?,
            logits: PinnedBuffer::new(&context, capacity.num_logit_rows * config.vocab_size)?,
            hidden: PinnedBuffer::new(&context, capacity.num_seqs * config.hidden_size)?,
            context,
            config,
            padding,
            capacity,
            kernels,
            cublaslt,
            weights,
            profile,
        })
    }

    /// Brings the step's arrays to the device and returns their size there, and where they are.
    fn bring(&mut self, step: &SchedulerOutput, is_graph: bool) -> Result<(StepSize, Place)> {
        let geometry = &self.kv.geometry;
        let size = StepSize::of(step, geometry);
        let size = if is_graph { padded(size, self.capacity.num_seqs) } else { size };
        let place = self.arrays.bring(step, size, geometry, is_graph, &self.uploads, &self.compute)?;
        Ok((size, place))
    }

    fn step(&self, size: StepSize, place: Place) -> CudaStep<'_> {
        CudaStep {
            kernels: &self.kernels,
            stream: &self.compute,
            config: &self.config,
            padding: self.padding,
            num_splits: self.capacity.num_splits(),
            num_multiprocessors: self.context.info().num_multiprocessors,
            acts: &self.acts,
            kv: &self.kv,
            rotations: &self.rotations,
            chosen: self.sampler.on_device(),
            arrays: self.arrays.device(place),
            size,
            work: &self.work,
            cublaslt: self.cublaslt.as_ref(),
            is_timed: self.profile.is_some(),
            outcome: RefCell::new(Ok(())),
        }
    }

    /// What was wanted of the step is on its way.
    fn end(&self) -> Result<()> {
        let Some(profile) = &self.profile else { return Ok(()) };
        self.compute.synchronize()?;
        profile.end_step();
        Ok(())
    }

    /// The forward pass, launch by launch.
    fn run(&self, step: &SchedulerOutput, size: StepSize, place: Place) -> Result<()> {
        let backend = self.step(size, place);
        if place.is_before {
            backend.advance_batch(self.arrays.changes());
        }
        let Some(profile) = self.profile.as_deref() else {
            forward(&backend, &self.config, &self.weights);
            return backend.outcome.into_inner();
        };
        let costs = &StepCosts::new(step, &self.config, self.kv.shape.kv_dtype);
        let profiled = Profiled { inner: backend, costs, profile: Some(profile) };
        forward(&profiled, &self.config, &self.weights);
        profiled.inner.outcome.into_inner()
    }

    /// The forward pass as a graph.
    fn replay(&mut self, step: &SchedulerOutput, size: StepSize, place: Place) -> Result<()> {
        let mut graphs = std::mem::take(&mut self.graphs);
        let capture = || self.compute.capture(|| self.run(step, size, place));
        let launched = graphs.get(size, place, capture).and_then(|graph| graph.launch(&self.compute));
        self.graphs = graphs;
        launched
    }

    fn copy_blocks(&self, size: StepSize, place: Place) -> Result<()> {
        let backend = self.step(size, place);
        backend.copy_blocks();
        backend.outcome.into_inner()
    }

    /// Brings the rows that the step computed to `out`, which waits for the step. A step without rows is not waited for.
    fn download(&mut self, out: &mut ModelOutput) -> Result<()> {
        out.vocab_size = self.config.vocab_size;
        out.hidden_size = self.config.hidden_size;
        let (logits, hidden) = (self.num_logit_rows * out.vocab_size, self.num_hidden_rows * out.hidden_size);
        if logits > 0 {
            self.logits.download(self.acts.logits.slice(0..logits), &self.compute)?;
        }
        if hidden > 0 {
            self.hidden.download(self.acts.hidden.slice(0..hidden), &self.compute)?;
        }
        out.logits.clear();
        out.logits.extend_from_slice(&self.logits.wait()?[..logits]);
        out.hidden.clear();
        out.hidden.extend(self.hidden.wait()?[..hidden].iter().map(|x| x.to_f32()));
        Ok(())
    }
}

/// What the step's queries see.
fn attention_work(step: &SchedulerOutput, geometry: &KvGeometry) -> AttentionWork {
    let read = |window: Option<usize>| -> u64 {
        let seen = |q: Queries| window.map_or(q.context_len, |window| q.context_len.min(window + q.count - 1));
        prompts(step).chain(decodes(step)).map(|queries| seen(queries) as u64).sum()
    };
    AttentionWork {
        max_queries: prompts(step).map(|queries| queries.count).max().unwrap_or(0),
        kv_positions: geometry.groups.iter().map(|group| read(group.window)).collect(),
    }
}

impl ModelRunner for CudaRunner {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn kv_geometry(&self) -> &KvGeometry {
        &self.kv.geometry
    }

    fn execute(&mut self, step: &SchedulerOutput, out: &mut ModelOutput) -> Result<()> {
        self.launch(step)?;
        self.rows(out)
    }

    fn device(&mut self) -> Option<&mut dyn DeviceRunner> {
        Some(self)
    }
}

impl DeviceRunner for CudaRunner {
    fn launch(&mut self, step: &SchedulerOutput) -> Result<()> {
        self.context.make_current()?;
        if let Some(profile) = &self.profile {
            profile.begin_step(phase(step));
        }
        let actual = StepSize::of(step, &self.kv.geometry);
        (self.num_logit_rows, self.num_hidden_rows) = (actual.num_logit_rows, actual.num_hidden_rows);
        let is_graph = self.profile.is_none() && only_decodes(step);
        self.work = attention_work(step, &self.kv.geometry);
        self.kv.swap(step, &self.compute)?;
        let (size, place) = self.bring(step, is_graph)?;
        let launched = self.copy_blocks(size, place).and_then(|()| match is_graph {
            true => self.replay(step, size, place),
            false => self.run(step, size, place),
        });
        self.arrays.release(place, launched, &self.compute)
    }

    fn rows(&mut self, out: &mut ModelOutput) -> Result<()> {
        self.download(out)?;
        self.end()
    }

    fn choose(&mut self, plan: &SamplePlan) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        let logits = self.acts.logits.slice(0..self.num_logit_rows * vocab_size);
        self.sampler.choose(plan, logits, vocab_size, &self.kernels, &self.compute)?;
        self.end()
    }

    fn chosen(&mut self) -> Result<Vec<Option<TokenId>>> {
        self.sampler.chosen()
    }
}
