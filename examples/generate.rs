//! A prompt to a model in the local store, streamed: `cargo run --release --example generate`

use std::io::Write;

use ferrule_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, Prompt, SamplingParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = ferrule_store::Store::open_default()?.locate("smollm2", &mut ferrule_store::Silent)?;
    let engine = EngineHandle::load(&model, EngineConfig::default())?;
    let prompt = Prompt::Text("The capital of France is".into());
    for event in engine.stream(GenerateRequest::new(prompt, SamplingParams::greedy(16)))? {
        match event {
            Event::Delta(delta) => print!("{}", delta.text),
            Event::Done(metrics) => println!("\n{:.0} tokens/s", metrics.decode_tokens_per_s().unwrap_or(0.0)),
            Event::Error(error) => return Err(error.into()),
            _ => {}
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
