//! GGUF files that are written: what is read again is what was meant, and other mixtures of a file are files of its model.

use std::path::{Path, PathBuf};

use ferrule_engine::error::Result;
use ferrule_engine::model;
use ferrule_engine::quant::DType;
use ferrule_engine::quantize::kquants::{Importance, Plan, mixture::Mixture};
use ferrule_engine::weights::{Checkpoint, Gguf, GgufWriter, NewTensor, Pairs, Value};

#[allow(dead_code)]
mod containers;

use containers::GgufFile;

fn tensor(name: &str, dtype: DType, shape: &[usize]) -> NewTensor {
    NewTensor { name: name.into(), dtype, shape: shape.into() }
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let mut pairs = Pairs::default();
    pairs.u32("n", 7).f32("x", 0.5).flag("on", true).text("t", "caf\u{e9}");
    pairs.texts("ts", ["a", ""].into_iter()).i32s("is", &[-1, 2]).f32s("xs", &[1.5]);
    let tensors = [tensor("a", DType::Q8_0, &[3, 32]), tensor("b", DType::F32, &[1])];
    let blocks: Vec<u8> = (0..102).collect();
    let mut writer = GgufWriter::create(&path, &pairs, &tensors).unwrap();
    writer.write(&blocks).unwrap();
    assert!(!path.exists());
    writer.write(&7f32.to_le_bytes()).unwrap();
    writer.finish().unwrap();

    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.keys().collect::<Vec<_>>(), ["n", "x", "on", "t", "ts", "is", "xs"]);
    let values = [
        Value::U64(7),
        Value::F64(0.5),
        Value::Bool(true),
        Value::String("caf\u{e9}".into()),
        Value::Strings(["a", ""].into_iter().collect()),
        Value::Ints(vec![-1, 2]),
        Value::Floats(vec![1.5]),
    ];
    for (key, value) in gguf.keys().zip(values) {
        assert_eq!(gguf.get(key), Some(&value));
    }
    let view = gguf.tensor("a").unwrap();
    assert_eq!((view.dtype, &view.shape[..], &view.bytes[..]), (DType::Q8_0, &[3, 32][..], &blocks[..]));
    assert_eq!(gguf.floats("b").unwrap(), [7.0]);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(GgufWriter::create(&dir.path().join("a.gguf"), &Pairs::default(), &[tensor("a", DType::F32, &[1])]).unwrap());
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

/// A Llama with two layers: rows of 256 are blocks of the K types, those of 288 are not.
fn llama() -> (tempfile::TempDir, PathBuf) {
    let mut file = GgufFile::new();
    file.text("general.architecture", "llama").text("general.name", "small").u32("llama.block_count", 2);
    file.u32("llama.context_length", 64).u32("llama.embedding_length", 256).u32("llama.feed_forward_length", 288);
    file.u32("llama.attention.head_count", 4).u32("llama.attention.head_count_kv", 2).u32("general.file_type", 0);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5).ints("kept.ints", &[1, -2]);
    let mut add = |name: &str, shape: &[u64]| {
        let numbers = (0..shape.iter().product()).map(|i: u64| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0);
        file.tensor(name, shape, &numbers.collect::<Vec<f32>>());
    };
    add("token_embd.weight", &[8, 256]);
    add("output_norm.weight", &[256]);
    for i in 0..2 {
        for (stem, shape) in [
            ("attn_norm", &[256][..]),
            ("attn_q", &[256, 256]),
            ("attn_k", &[128, 256]),
            ("attn_v", &[128, 256]),
            ("attn_output", &[256, 256]),
            ("ffn_norm", &[256]),
            ("ffn_gate", &[288, 256]),
            ("ffn_up", &[288, 256]),
            ("ffn_down", &[256, 288]),
        ] {
            add(&format!("blk.{i}.{stem}.weight"), shape);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    std::fs::write(&path, file.bytes(3)).unwrap();
    (dir, path)
}

#[test]
fn a_mixture_of_a_file_is_a_file_of_the_same_model() {
    let (dir, path) = llama();
    let source = Gguf::open(&path).unwrap();
    let plan = Plan::new(&source, Mixture::named("q4_k_m").unwrap(), false).unwrap();
    assert_eq!(plan.fallbacks, ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]);
    let target = dir.path().join("made.gguf");
    let mut counts = Vec::new();
    let begun = plan.begin(&source, &target, 0).unwrap();
    assert_eq!(begun.num_left(), source.tensor_names().len());
    begun
        .finish(&source, &Importance::new(), 2, &mut |num_written| {
            counts.push(num_written);
            Ok(())
        })
        .unwrap();
    assert!(counts.into_iter().eq(1..=source.tensor_names().len()));

    let made = Gguf::open(&target).unwrap();
    assert_eq!(made.get("general.file_type"), Some(&Value::U64(15)));
    assert_eq!(made.get("general.quantization_version"), Some(&Value::U64(2)));
    assert_eq!(made.raw("kept.ints"), source.raw("kept.ints"));
    let dtype = |name: &str| made.tensor(name).unwrap().dtype;
    assert_eq!(dtype("token_embd.weight"), DType::Q6_K);
    assert_eq!(dtype("blk.0.attn_q.weight"), DType::Q4_K);
    assert_eq!(dtype("blk.1.ffn_down.weight"), DType::Q8_0);
    assert_eq!(made.tensor("output_norm.weight").unwrap().bytes, source.tensor("output_norm.weight").unwrap().bytes);
    let largest = |numbers: Vec<f32>| numbers.into_iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    for name in source.tensor_names() {
        let differences = source.floats(name).unwrap().into_iter().zip(made.floats(name).unwrap()).map(|(a, b)| a - b);
        assert!(largest(differences.collect()) < 0.1, "{name}");
    }
    assert_eq!(model::open(&target).unwrap().config.num_layers(), 2);
}

fn write(plan: &Plan, source: &Gguf, target: &Path, threads: usize) -> Result<()> {
    plan.begin(source, target, 0)?.finish(source, &Importance::new(), threads, &mut |_| Ok(()))
}

#[test]
fn threads_and_mixtures_of_the_same_types_change_nothing() {
    let (dir, path) = llama();
    let source = Gguf::open(&path).unwrap();
    let mixture = Mixture::named("q4_0").unwrap();
    let [one, three, again] = ["one", "three", "again"].map(|name| dir.path().join(name));
    let make = |source: &Gguf, target: &Path, threads| {
        let plan = Plan::new(source, mixture, false).unwrap();
        write(&plan, source, target, threads).unwrap();
        std::fs::read(target).unwrap()
    };
    let bytes = make(&source, &one, 1);
    assert!(bytes == make(&source, &three, 3));
    let tensors = |path| Gguf::open(path).unwrap();
    make(&tensors(&one), &again, 2);
    for name in source.tensor_names() {
        assert_eq!(tensors(&one).tensor(name).unwrap().bytes, tensors(&again).tensor(name).unwrap().bytes, "{name}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let (dir, path) = llama();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let source = Gguf::open(&path).unwrap();
    let plan = Plan::new(&source, Mixture::named("q8_0").unwrap(), false).unwrap();
    let message = write(&plan, &source, &dir.path().join("made.gguf"), 2).unwrap_err();
    assert!(message.to_string().contains("'blk.1.ffn_down.weight' has a number that is not finite"), "{message}");
    assert!(!dir.path().join("made.gguf").exists());
}
