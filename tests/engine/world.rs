//! Small engines to test in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ferrule_engine::info::ModelInfo;
use ferrule_engine::kv::KvGeometry;
use ferrule_engine::metrics::EngineStats;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::runner::{DeviceRunner, ModelOutput, ModelRunner};
use ferrule_engine::sample::{Choice, RowEdits, SampleContext, SamplePlan, SampleScratch, sample};
use ferrule_engine::sched::SchedulerOutput;
use ferrule_engine::text::Tokenizer;
use ferrule_engine::{
    EngineConfig, EngineHandle, Error, Event, GenerateOutput, GenerateRequest, Prompt, Result, SamplingParams, TokenId,
};

pub const VOCAB_SIZE: usize = 8;
pub const MAX_MODEL_LEN: usize = 96;

pub fn null_config(num_blocks: usize) -> NullConfig {
    NullConfig {
        vocab_size: VOCAB_SIZE,
        num_blocks,
        block_size: 4,
        windows: vec![None, Some(9)],
        ..NullConfig::default()
    }
}

pub fn model_info(tokenizer: Option<Arc<Tokenizer>>) -> ModelInfo {
    ModelInfo {
        config: None,
        tokenizer,
        chat_template: None,
        vocab_size: VOCAB_SIZE,
        max_model_len: MAX_MODEL_LEN,
        weight_bytes: 0,
        kv_cache_bytes: 0,
        kv_cache_tokens: 0,
        backend: "null".into(),
    }
}

pub fn engine_of(runner: impl ModelRunner + 'static, config: EngineConfig) -> EngineHandle {
    EngineHandle::with_runner(Box::new(runner), model_info(None), config).unwrap()
}

pub fn engine(config: EngineConfig) -> EngineHandle {
    engine_of(NullModel::new(null_config(512)), config)
}

/// Letters a to g, and an end-of-text token with id 0.
pub fn tokenizer() -> Arc<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "merges": [], "vocab":
        {"<eos>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7}}}"#;
    std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "<eos>"}"#).unwrap();
    Arc::new(Tokenizer::from_dir(dir.path()).unwrap())
}

pub fn engine_with_text(config: EngineConfig) -> EngineHandle {
    let runner = Box::new(NullModel::new(null_config(512)));
    EngineHandle::with_runner(runner, model_info(Some(tokenizer())), config).unwrap()
}

pub fn request(prompt: &[TokenId], params: SamplingParams) -> GenerateRequest {
    GenerateRequest::new(Prompt::Tokens(prompt.to_vec()), params)
}

/// What an answer says, without what it cost.
pub fn said(output: &GenerateOutput) -> String {
    format!("{:?}", (&output.prompt_token_ids, &output.prompt_logprobs, &output.outputs, &output.embedding))
}

pub fn wait_until(engine: &EngineHandle, what: impl Fn(&EngineStats) -> bool) {
    let start = Instant::now();
    while !what(&engine.stats()) {
        assert!(start.elapsed() < Duration::from_secs(20), "still {:?}", engine.stats());
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What a gated model does with its next step.
pub enum Gate {
    Run,
    Fail,
    Panic,
}

/// The null model, one step per order; it runs freely once the sender is gone.
pub struct GatedModel {
    model: NullModel,
    orders: Receiver<Gate>,
}

impl ModelRunner for GatedModel {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn hidden_size(&self) -> usize {
        self.model.hidden_size()
    }

    fn kv_geometry(&self) -> &KvGeometry {
        self.model.kv_geometry()
    }

    fn execute(&mut self, step: &SchedulerOutput, out: &mut ModelOutput) -> Result<()> {
        match self.orders.recv().unwrap_or(Gate::Run) {
            Gate::Run => self.model.execute(step, out),
            Gate::Fail => Err(Error::Internal("the device is on fire".into())),
            Gate::Panic => panic!("the model lost its mind"),
        }
    }
}

pub fn gated_engine(config: EngineConfig) -> (EngineHandle, Sender<Gate>) {
    let (sender, orders) = channel();
    let model = NullModel::new(null_config(512));
    (engine_of(GatedModel { model, orders }, config), sender)
}

/// The null model as a device: it computes a step when its rows or choices are asked for, and keeps what it chose to itself
/// until `chosen`.
pub struct LaggingModel {
    model: NullModel,
    rows: ModelOutput,
    launched: Option<SchedulerOutput>,
    choices: Vec<Option<TokenId>>,
    /// Tokens were chosen and not asked for.
    has_chosen: bool,
    /// Steps that were launched at such a time.
    pub num_ahead: Arc<AtomicU64>,
    fails_at: Option<u64>,
    num_chosen: u64,
}

impl LaggingModel {
    pub fn new(config: NullConfig) -> Self {
        Self {
            model: NullModel::new(config),
            rows: ModelOutput::default(),
            launched: None,
            choices: Vec::new(),
            has_chosen: false,
            num_ahead: Arc::default(),
            fails_at: None,
            num_chosen: 0,
        }
    }

    /// The given one of its answers is an error.
    pub fn failing_at(config: NullConfig, answer: u64) -> Self {
        Self { fails_at: Some(answer), ..Self::new(config) }
    }

    fn compute(&mut self) -> Result<()> {
        let mut step = self.launched.take().expect("a step was launched");
        for chosen in &step.chosen {
            assert_eq!(step.tokens[chosen.token], 0, "a placeholder");
            step.tokens[chosen.token] = self.choices[chosen.choice].unwrap_or(0);
        }
        self.model.execute(&step, &mut self.rows)
    }
}

impl ModelRunner for LaggingModel {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn hidden_size(&self) -> usize {
        self.model.hidden_size()
    }

    fn kv_geometry(&self) -> &KvGeometry {
        self.model.kv_geometry()
    }

    fn execute(&mut self, _step: &SchedulerOutput, _out: &mut ModelOutput) -> Result<()> {
        unreachable!("a device's steps are launched")
    }

    fn device(&mut self) -> Option<&mut dyn DeviceRunner> {
        Some(self)
    }
}

impl DeviceRunner for LaggingModel {
    fn launch(&mut self, step: &SchedulerOutput) -> Result<()> {
        assert!(self.launched.is_none(), "the step before gave neither rows nor choices");
        self.num_ahead.fetch_add(u64::from(self.has_chosen), Ordering::Relaxed);
        self.launched = Some(step.clone());
        Ok(())
    }

    fn rows(&mut self, out: &mut ModelOutput) -> Result<()> {
        assert!(!self.has_chosen, "tokens of the step before were not asked for");
        self.compute()?;
        std::mem::swap(out, &mut self.rows);
        Ok(())
    }

    fn choose(&mut self, plan: &SamplePlan) -> Result<()> {
        assert!(!self.has_chosen, "tokens of the step before were not asked for");
        self.compute()?;
        if !plan.choices.is_empty() {
            self.choices = choices(plan, &mut self.rows.logits, self.model.vocab_size());
            self.has_chosen = true;
        }
        Ok(())
    }

    fn chosen(&mut self) -> Result<Vec<Option<TokenId>>> {
        assert!(std::mem::take(&mut self.has_chosen), "nothing was chosen");
        self.num_chosen += 1;
        match self.fails_at == Some(self.num_chosen) {
            true => {
                self.launched = None;
                Err(Error::Internal("the device is on fire".into()))
            }
            false => Ok(self.choices.clone()),
        }
    }
}

/// What a plan chooses from (num_rows, width) logits.
fn choices(plan: &SamplePlan, logits: &mut [f32], width: usize) -> Vec<Option<TokenId>> {
    for RowEdits { row, repetition, frequency, presence, edits } in &plan.edits {
        let row = &mut logits[row * width..][..width];
        for edit in edits {
            let logit = &mut row[edit.token as usize];
            *logit += edit.bias;
            if edit.is_banned {
                *logit = f32::NEG_INFINITY;
            } else if edit.is_seen {
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
                *logit -= edit.count as f32 * frequency;
                *logit -= if edit.count > 0 { *presence } else { 0.0 };
            }
        }
    }
    let choose = |choice: &Choice| {
        let &Choice { row, temperature, top_k, top_p, min_p, seed, position } = choice;
        let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
        let (prompt, output, eos) = (&vec![0; position][..], &[][..], &[][..]);
        let context = SampleContext { params: &params, seed, prompt, output, eos };
        let sampled = sample(&mut logits[row * width..][..width], context, &mut SampleScratch::default());
        sampled.ok().map(|sampled| sampled.token_id)
    };
    plan.choices.iter().map(choose).collect()
}

/// The last event of a request.
pub fn last_event(stream: ferrule_engine::EventStream) -> Event {
    stream.last().expect("a stream has a last event")
}
