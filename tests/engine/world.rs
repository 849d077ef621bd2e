//! Small engines to test in.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ferrule_engine::info::ModelInfo;
use ferrule_engine::kv::KvGeometry;
use ferrule_engine::metrics::EngineStats;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::runner::{ModelOutput, ModelRunner};
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

/// The last event of a request.
pub fn last_event(stream: ferrule_engine::EventStream) -> Event {
    stream.last().expect("a stream has a last event")
}
