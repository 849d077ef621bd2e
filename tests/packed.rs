//! Engines with packed weights on disk answer as engines without them, whatever happens to the files.

use std::fs;
use std::path::{Path, PathBuf};

use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, TokenId};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

/// Tokens and the bits of their log-probabilities, from an engine that was started for them.
fn answer(model: &Path, packed_weights: Option<&Path>) -> (Vec<TokenId>, Vec<u32>) {
    let config = EngineConfig {
        threads: Some(2),
        kv_cache_memory: Some(8 << 20),
        packed_weights: packed_weights.map(Path::to_path_buf),
        ..EngineConfig::default()
    };
    let engine = EngineHandle::load(model, config).unwrap();
    let params = SamplingParams { ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(12) };
    let request = GenerateRequest::new(Prompt::Tokens((1..20).collect()), params);
    let output = engine.generate(request).unwrap().outputs.remove(0);
    (output.token_ids, output.logprobs.iter().map(|token| token.logprob.to_bits()).collect())
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn the_first_start_packs_and_the_second_maps() {
    for name in ["llama3", "gemma3", "phi3", "llama-sharded"] {
        let (model, dir) = (golden(name), tempfile::tempdir().unwrap());
        let expected = answer(&model, None);
        assert_eq!(answer(&model, Some(dir.path())), expected, "{name}");
        let path = only_file(dir.path());
        let (whole, made) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(answer(&model, Some(dir.path())), expected, "{name}");
        let used = fs::metadata(&path).unwrap().modified().unwrap();
        assert!(used > made, "{name}: the second start used the file");
        assert!(fs::read(&path).unwrap() == whole, "{name}: and did not write it");
    }
}

#[test]
fn damaged_files_change_no_answer_and_are_repaired() {
    let (model, dir) = (golden("gemma3"), tempfile::tempdir().unwrap());
    let expected = answer(&model, Some(dir.path()));
    let path = only_file(dir.path());
    let whole = fs::read(&path).unwrap();
    for step in 0..10 {
        let mut bytes = whole.clone();
        let at = step * (whole.len() - 1) / 9;
        bytes[at] ^= 0x11;
        bytes.truncate(if step % 2 == 0 { whole.len() } else { at });
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(answer(&model, Some(dir.path())), expected, "byte {at}");
        assert!(fs::read(&path).unwrap() == whole, "byte {at}");
    }
}

#[test]
fn engines_that_start_at_once_share_a_folder() {
    let (model, dir) = (golden("llama3"), tempfile::tempdir().unwrap());
    let expected = answer(&model, None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(answer(&model, Some(dir.path())), expected));
        }
    });
    only_file(dir.path());
}
