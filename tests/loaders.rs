//! Foreign files: what is sound opens and reads as its writer meant, and what is not ends in an error.

use std::path::{Path, PathBuf};

use ferrule_engine::model::{self, Role, Source};
use ferrule_engine::quant::{DType, dequantize};
use ferrule_engine::weights::{Checkpoint, Gguf, SafetensorsDir, Value};
use ferrule_engine::{Error, Result};
use proptest::prelude::*;

mod containers;
mod reference;
mod twin;

use containers::{GgufFile, safetensors_file, tiny_llama};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn folder(config: &str, weights: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    dir
}

fn message<T>(result: Result<T>) -> String {
    result.err().expect("an error is expected").to_string()
}

/// Everything that a loader offers, so that a fuzzed file meets all of it.
fn read_all(checkpoint: &dyn Checkpoint) {
    for name in checkpoint.tensor_names() {
        if let Ok(view) = checkpoint.tensor(name) {
            let mut out = vec![0.0; view.shape.iter().product()];
            dequantize(view.dtype, &view.bytes, &mut out);
            checkpoint.release(name);
        }
    }
}

#[test]
fn blocks_decode_as_the_gguf_package_decodes_them() {
    let text = std::fs::read_to_string(golden("quant/blocks.json")).unwrap();
    let cases: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    let (grouped, gguf): (Vec<_>, Vec<_>) = DType::ALL
        .iter()
        .partition(|dtype| matches!(dtype.name().as_bytes(), [b'I', b'4' | b'8', ..] | [b'U', ..] | [b'F', b'8', ..]));
    assert_eq!((cases.len(), grouped.len()), (gguf.len(), 9));
    for dtype in gguf.into_iter().copied() {
        let bytes = |field: &str| hex(cases[dtype.name()][field].as_str().unwrap());
        let expected: Vec<u32> =
            bytes("numbers").chunks(4).map(|chunk| u32::from_le_bytes(chunk.try_into().unwrap())).collect();
        let mut out = vec![0.0; expected.len()];
        dequantize(dtype, &bytes("bytes"), &mut out);
        for (j, (got, expected)) in out.iter().zip(expected).enumerate() {
            assert_eq!(got.to_bits(), expected, "{dtype} {j}: {got} and {}", f32::from_bits(expected));
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn gguf_metadata_and_tensors_read_as_written() {
    let mut file = GgufFile::new();
    file.text("general.name", "tiny").u32("x.count", 7).f32("x.eps", 0.5).flag("x.on", true);
    file.texts("x.words", &["a", "", "c\u{e9}"]).ints("x.ints", &[-1, 2]);
    file.tensor("a", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).tensor("b", &[1], &[7.0]);
    for version in [2, 3] {
        let (_dir, path) = written(&file.bytes(version));
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.get("x.words"), Some(&Value::Strings(["a", "", "c\u{e9}"].into_iter().collect())));
        assert_eq!(gguf.get("x.ints"), Some(&Value::Ints(vec![-1, 2])));
        assert_eq!(gguf.get("x.count"), Some(&Value::U64(7)));
        assert_eq!(gguf.get("x.on"), Some(&Value::Bool(true)));
        assert_eq!(gguf.keys().next(), Some("general.name"));
        let view = gguf.tensor("a").unwrap();
        assert_eq!((view.dtype, &view.shape[..], view.bytes.len()), (DType::F32, &[2, 3][..], 24));
        assert_eq!(gguf.tensor("b").unwrap().bytes[..], 7f32.to_le_bytes());
        assert_eq!(gguf.tensor_names(), ["a", "b"]);
    }
}

#[test]
fn gguf_alignment_is_honoured() {
    let mut file = GgufFile::new();
    file.alignment = 128;
    file.u32("general.alignment", 128).tensor("a", &[1], &[1.0]).tensor("b", &[1], &[2.0]);
    let (_dir, path) = written(&file.bytes(3));
    assert_eq!(Gguf::open(&path).unwrap().tensor("b").unwrap().bytes[..], 2f32.to_le_bytes());
}

#[test]
fn gguf_refusals_say_why() {
    let valid = tiny_llama().bytes(3);
    let open = |bytes: &[u8]| message(Gguf::open(&written(bytes).1));
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = valid.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert!(open(b"{\"not\": \"gguf\"}").contains("not a GGUF file"));
    assert!(open(&patched(4, &1u32.to_le_bytes())).contains("version 1"));
    assert!(open(&patched(4, &3u32.to_be_bytes())).contains("big-endian"));
    assert!(open(&patched(8, &u64::MAX.to_le_bytes())).contains("cannot fit"));
    assert!(open(&valid[..valid.len() - 1]).contains("cut short"));
    let mut twice = GgufFile::new();
    twice.u32("k", 1).u32("k", 2);
    assert!(open(&twice.bytes(3)).contains("'k' occurs twice"));
    let mut twice = GgufFile::new();
    twice.tensor("t", &[1], &[1.0]).tensor("t", &[1], &[1.0]);
    assert!(open(&twice.bytes(3)).contains("'t' occurs twice"));
}

#[test]
fn a_tensor_type_that_does_not_run_is_refused_when_asked_for() {
    let mut file = GgufFile::new();
    file.tensor("good", &[1], &[1.0]).raw_tensor("odd", &[256], 21, &[0; 110]);
    let (_dir, path) = written(&file.bytes(3));
    let gguf = Gguf::open(&path).unwrap();
    assert!(gguf.tensor("good").is_ok() && gguf.find("odd").is_none());
    assert!(message(gguf.tensor("odd")).contains("'odd' is IQ3_S, which Ferrule cannot run yet"));
    assert!(message(gguf.tensor("none")).contains("'none' is missing"));
}

#[test]
fn interleaved_rows_become_half_split() {
    let (_dir, path) = written(&tiny_llama().bytes(3));
    let source = model::open(&path).unwrap();
    assert_eq!((source.config.family, source.config.num_layers(), source.config.tie_embeddings), ("llama", 1, true));
    // Two heads of four: pairs (0, 1), (2, 3) become (0, 2), (1, 3).
    let rows = |role| {
        let part = source.part(role).unwrap();
        (0..part.rows).map(|row| (part.row_of)(row)).collect::<Vec<_>>()
    };
    assert_eq!(rows(Role::Query(0)), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(rows(Role::Key(0)), [0, 2, 1, 3]);
    assert_eq!(rows(Role::Value(0)), [0, 1, 2, 3]);
}

#[test]
fn models_that_do_not_fit_their_configuration_are_refused() {
    let refusal = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = tiny_llama();
        change(&mut file);
        message(model::open(&written(&file.bytes(3)).1))
    };
    let wrong_shape = refusal(&|file| file.set_u32("llama.feed_forward_length", 12));
    assert!(wrong_shape.contains("ffn_gate") && wrong_shape.contains("[16, 8]") && wrong_shape.contains("[12, 8]"));
    assert!(refusal(&|file| file.set_text("general.architecture", "mamba")).contains("'mamba' does not run"));
    assert!(refusal(&|file| file.set_u32("llama.attention.head_count_kv", 3)).contains("evenly"));
    assert!(refusal(&|file| file.set_u32("llama.block_count", 4_000_000_000)).contains("missing"));
    assert!(refusal(&|file| file.set_u32("llama.expert_count", 8)).contains("no llama.expert_used_count"));
    assert!(refusal(&|file| file.set_u32("llama.expert_shared_count", 1)).contains("llama.expert_shared_count"));
    let no_mixture = refusal(&|file| {
        file.set_text("general.architecture", "gemma2");
        file.u32("gemma2.expert_count", 8);
    });
    assert!(no_mixture.contains("gemma2.expert_count"), "{no_mixture}");
    assert!(refusal(&|file| file.set_text("llama.rope.scaling.type", "spiral")).contains("spiral"));
    let bias = refusal(&|file| {
        file.tensor("blk.0.attn_q.bias", &[8], &[0.0; 8]);
    });
    assert!(bias.contains("'blk.0.attn_q.bias' has no place in the llama architecture"));
}

const GOLDEN_MODELS: [(&str, &str); 10] = [
    ("llama3", "llama"),
    ("llama-sharded", "llama"),
    ("mistral", "mistral"),
    ("phi3", "phi3"),
    ("phi3-longrope", "phi3"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3-yarn", "qwen3"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
];

#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<usize>,
    positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
}

impl Expected {
    fn read(name: &str) -> Self {
        let path = golden("models").join(name).join("expected.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn check(&self, name: &str, source: &Source) {
        let logits = reference::logits(source, &self.input_ids);
        for (&position, row) in self.positions.iter().zip(&self.logits) {
            assert_eq!(row.len(), logits[position].len());
            for (token, (a, b)) in row.iter().zip(&logits[position]).enumerate() {
                assert!((a - b).abs() < 1e-4, "{name}, position {position}, token {token}: {b} instead of {a}");
            }
        }
    }
}

#[test]
fn golden_folders_mean_what_transformers_takes_them_for() {
    for (name, family) in GOLDEN_MODELS {
        let source = model::open(&golden("models").join(name)).unwrap();
        assert_eq!((source.config.family, source.config.vocab_size), (family, 128));
        Expected::read(name).check(name, &source);
    }
}

#[test]
fn the_same_model_means_the_same_as_gguf() {
    for (name, _) in GOLDEN_MODELS {
        let folder = model::open(&golden("models").join(name)).unwrap();
        let (_dir, path) = written(&twin::gguf_of(&folder).bytes(3));
        Expected::read(name).check(name, &model::open(&path).unwrap());
    }
}

#[test]
fn folders_that_cannot_run_are_refused() {
    let config = std::fs::read_to_string(golden("models/llama3/config.json")).unwrap();
    let weights = std::fs::read(golden("models/llama3/model.safetensors")).unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        message(model::open(folder(&config.replace(from, to), &weights).path()))
    };
    let unsupported = refusal("\"model_type\": \"llama\"", "\"model_type\": \"falcon\"");
    assert!(unsupported.contains("'falcon' does not run") && unsupported.contains("gemma3"));
    assert!(refusal("\"attention_bias\": false", "\"attention_bias\": true").contains("'attention_bias'"));
    assert!(refusal("\"hidden_size\": 64", "\"hidden_size\": \"64\"").contains("'hidden_size' is not a whole number"));
    assert!(refusal("\"hidden_size\": 64", "\"hidden_size\": null").contains("'hidden_size' is missing"));
    assert!(refusal("\"hidden_size\": 64", "\"hidden_size\": 128").contains("shape"));
    assert!(refusal("\"rope_type\": \"llama3\"", "\"rope_type\": \"dynamic\"").contains("'dynamic'"));
    assert!(refusal("\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"").contains("'relu'"));
    assert!(refusal("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1").contains("no place"));
    assert!(refusal("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 99999999999").contains("num_hidden_layers"));
    assert!(refusal("\"num_attention_heads\": 4", "\"num_attention_heads\": 0").contains("heads is 0"));
}

#[test]
fn what_is_no_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(model::open(dir.path()), Err(Error::ModelNotFound(_))));
    assert!(matches!(model::open(&dir.path().join("none.gguf")), Err(Error::Io { .. })));
    for config in ["", "[]", "{", "{\"model_type\": 3}", "{\"model_type\": \"llama\"}", "{\"text_config\": []}"] {
        let dir = folder(config, b"");
        assert!(matches!(model::open(dir.path()), Err(Error::Corrupt { .. })), "{config}");
    }
}

#[test]
fn shards_are_checked_against_their_index() {
    let copy = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(golden("models/llama-sharded")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        change(dir.path());
        model::open(dir.path()).map(|_| ())
    };
    copy(&|_| ()).unwrap();
    let second = "model-00002-of-00002.safetensors";
    let missing = copy(&|dir| std::fs::remove_file(dir.join(second)).unwrap());
    assert!(message(missing).contains(second));
    let twice = copy(&|dir| {
        std::fs::copy(dir.join("model-00001-of-00002.safetensors"), dir.join(second)).unwrap();
    });
    assert!(message(twice).contains("occurs twice"));
    let index = |dir: &Path, weight_map: &str| {
        std::fs::write(dir.join("model.safetensors.index.json"), format!("{{\"weight_map\": {weight_map}}}")).unwrap();
    };
    assert!(message(copy(&|dir| index(dir, "{\"a\": \"../x.safetensors\"}"))).contains("plain file name"));
    assert!(message(copy(&|dir| index(dir, "{\"a\": 1}"))).contains("no index of shards"));
    let unknown = copy(&|dir| index(dir, &format!("{{\"a\": \"{second}\"}}")));
    assert!(message(unknown).contains("no shard has the tensor 'a'"));
}

#[test]
fn safetensors_refusals_say_why() {
    let open = |header: &str, data: usize| {
        message(SafetensorsDir::open(folder("{}", &safetensors_file(header, data)).path()).and_then(|dir| {
            let name = dir.tensor_names()[0].to_string();
            dir.tensor(&name).map(|_| ())
        }))
    };
    assert!(open("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 8).contains("does not take 4"));
    assert!(open("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7).contains("outside"));
    assert!(open("{\"a\": {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8).contains("outside"));
    let huge = "{\"a\": {\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,0]}}";
    assert!(open(huge, 8).contains("does not take 0"));
    assert!(open("{\"a\": {\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 8).contains("'a' is I8"));
    let one = "\"a\": {\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
    assert!(open(&format!("{{{one}, {one}}}"), 8).contains("occurs twice"));
}

/// Where bytes are cut off and which bits flip, within the first `len` bytes.
fn damage(len: usize) -> impl Strategy<Value = (Option<usize>, Vec<(usize, u8)>)> {
    (prop::option::weighted(0.25, 0..len), prop::collection::vec((0..len, 0u8..8), 1..6))
}

fn damaged(mut bytes: Vec<u8>, (cut, flips): (Option<usize>, Vec<(usize, u8)>)) -> Vec<u8> {
    for (at, bit) in flips {
        bytes[at] ^= 1 << bit;
    }
    bytes.truncate(cut.unwrap_or(bytes.len()));
    bytes
}

/// The header of a golden model's weights and the file's length.
fn golden_header(name: &str) -> (Vec<u8>, u64) {
    let mut bytes = std::fs::read(golden("models").join(name).join("model.safetensors")).unwrap();
    let len = bytes.len() as u64;
    bytes.truncate(8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize);
    (bytes, len)
}

/// A folder whose weights have this header and are otherwise zeros that take no room on the disk.
fn sparse_folder(config: &[u8], header: &[u8], len: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, header).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
    dir
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_gguf_files_end_in_a_result(damage in damage(tiny_llama().header_len())) {
        let (_dir, path) = written(&damaged(tiny_llama().bytes(3), damage));
        if let Ok(gguf) = Gguf::open(&path) {
            read_all(&gguf);
        }
        let _ = model::open(&path);
    }

    #[test]
    fn damaged_safetensors_files_end_in_a_result(damage in damage(golden_header("qwen2").0.len())) {
        let (header, len) = golden_header("qwen2");
        let config = std::fs::read(golden("models/qwen2/config.json")).unwrap();
        let len = damage.0.map_or(len, |cut| cut as u64);
        let dir = sparse_folder(&config, &damaged(header, damage), len);
        if let Ok(checkpoint) = SafetensorsDir::open(dir.path()) {
            read_all(&checkpoint);
        }
        let _ = model::open(dir.path());
    }

    #[test]
    fn damaged_configurations_end_in_a_result(damage in damage(900)) {
        let (header, len) = golden_header("gemma3");
        let config = std::fs::read(golden("models/gemma3/config.json")).unwrap();
        let _ = model::open(sparse_folder(&damaged(config, damage), &header, len).path());
    }
}
