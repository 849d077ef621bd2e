//! GPTQ, AWQ and compressed-tensors folders, packed here from the formats' definitions, read as the numbers that
//! they stand for.

use std::path::Path;

use ferrule_engine::error::Error;
use ferrule_engine::quant::{DType, dequantize};
use ferrule_engine::weights::{Checkpoint, GroupedDir, SafetensorsDir};
use half::f16;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A quantized matrix, element by element.
#[derive(Debug, Clone)]
struct Plan {
    rows: usize,
    cols: usize,
    group: usize,
    bits: usize,
    /// (rows, cols)
    codes: Vec<u32>,
    /// (rows, groups)
    zeros: Vec<u32>,
    scales: Vec<f16>,
    /// (cols,): each column's group.
    groups: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Gptq(u32),
    Awq,
    Packed,
    Plain,
}

/// Columns in the order of their groups.
fn in_order(cols: usize, group: usize) -> Vec<usize> {
    (0..cols).map(|col| col / group).collect()
}

impl Plan {
    fn groups(&self) -> usize {
        self.cols / self.group
    }

    fn numbers(&self) -> Vec<f32> {
        (0..self.rows * self.cols)
            .map(|i| {
                let at = i / self.cols * self.groups() + self.groups[i % self.cols];
                self.scales[at].to_f32() * (self.codes[i] as f32 - self.zeros[at] as f32)
            })
            .collect()
    }

    /// Words of `per` elements of `value`, the first in the lowest bits.
    fn word(&self, value: impl Fn(usize) -> u32) -> [u8; 4] {
        let per = 32 / self.bits;
        (0..per).fold(0u32, |word, i| word | value(i) << (self.bits * i)).to_le_bytes()
    }

    fn code(&self, row: usize, col: usize) -> u32 {
        self.codes[row * self.cols + col]
    }

    fn zero(&self, row: usize, group: usize) -> u32 {
        self.zeros[row * self.groups() + group]
    }

    fn scales(&self, by_group: bool) -> Vec<u8> {
        let (n, g) = (self.rows, self.groups());
        let at = |i: usize| if by_group { i % n * g + i / n } else { i };
        (0..n * g).flat_map(|i| self.scales[at(i)].to_le_bytes()).collect()
    }

    /// The folder's tensors: name, type, shape, bytes.
    fn tensors(&self, form: Form) -> Vec<(String, &'static str, Vec<usize>, Vec<u8>)> {
        let (n, k, g, per) = (self.rows, self.cols, self.groups(), 32 / self.bits);
        let mask = (1u32 << self.bits) - 1;
        let name = |part: &str| format!("model.x.{part}");
        let order = self.groups.iter().flat_map(|&group| (group as i32).to_le_bytes()).collect();
        // AutoAWQ's `order_map`: nibble i of a word is column order[i] of eight.
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        match form {
            Form::Gptq(version) => {
                let codes = (0..k / per * n).flat_map(|i| self.word(|j| self.code(i % n, i / n * per + j))).collect();
                let stored = |row, group| self.zero(row, group).wrapping_sub(u32::from(version == 1)) & mask;
                let zeros = (0..g * (n / per))
                    .flat_map(|i| self.word(|j| stored(i % (n / per) * per + j, i / (n / per))))
                    .collect();
                vec![
                    (name("qweight"), "I32", vec![k / per, n], codes),
                    (name("qzeros"), "I32", vec![g, n / per], zeros),
                    (name("scales"), "F16", vec![g, n], self.scales(true)),
                    (name("g_idx"), "I32", vec![k], order),
                ]
            }
            Form::Awq => {
                let n8 = n / 8;
                let codes = (0..k * n8).flat_map(|i| self.word(|j| self.code(i % n8 * 8 + ORDER[j], i / n8))).collect();
                let zeros = (0..g * n8).flat_map(|i| self.word(|j| self.zero(i % n8 * 8 + ORDER[j], i / n8))).collect();
                vec![
                    (name("qweight"), "I32", vec![k, n8], codes),
                    (name("qzeros"), "I32", vec![g, n8], zeros),
                    (name("scales"), "F16", vec![g, n], self.scales(true)),
                ]
            }
            Form::Packed => {
                let kp = k / per;
                let codes = (0..n * kp).flat_map(|i| self.word(|j| self.code(i / kp, i % kp * per + j))).collect();
                let zeros = (0..n / per * g).flat_map(|i| self.word(|j| self.zero(i / g * per + j, i % g))).collect();
                vec![
                    (name("weight_packed"), "I32", vec![n, kp], codes),
                    (name("weight_zero_point"), "I32", vec![n / per, g], zeros),
                    (name("weight_scale"), "F16", vec![n, g], self.scales(false)),
                    (name("weight_shape"), "I64", vec![2], [n as i64, k as i64].map(i64::to_le_bytes).concat()),
                    (name("weight_g_idx"), "I32", vec![k], order),
                ]
            }
            Form::Plain => {
                let signed = |codes: &[u32]| codes.iter().map(|&code| (code as u8) ^ 0x80).collect();
                vec![
                    (name("weight"), "I8", vec![n, k], signed(&self.codes)),
                    (name("weight_scale"), "F16", vec![n, g], self.scales(false)),
                    (name("weight_zero_point"), "I8", vec![n, g], signed(&self.zeros)),
                ]
            }
        }
    }

    fn config(&self, form: Form) -> Value {
        let group = if self.group == self.cols { -1 } else { self.group as i64 };
        let compressed = |format: &str| {
            let strategy = if group == -1 { "channel" } else { "group" };
            let weights = json!({"num_bits": self.bits, "type": "int", "strategy": strategy, "group_size": group});
            json!({"quant_method": "compressed-tensors", "format": format,
                   "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
        };
        match form {
            Form::Gptq(1) => json!({"quant_method": "gptq", "bits": self.bits, "group_size": group, "desc_act": false}),
            Form::Gptq(_) => json!({"quant_method": "gptq", "bits": self.bits, "group_size": group,
                                    "checkpoint_format": "gptq_v2"}),
            Form::Awq => json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "GEMM"}),
            Form::Packed => compressed("pack-quantized"),
            Form::Plain => compressed("int-quantized"),
        }
    }

    fn open(&self, form: Form) -> Result<GroupedDir, Error> {
        open(&self.tensors(form), &self.config(form))
    }
}

fn open(tensors: &[(String, &'static str, Vec<usize>, Vec<u8>)], config: &Value) -> Result<GroupedDir, Error> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), tensors);
    GroupedDir::new(SafetensorsDir::open(dir.path())?, config)
}

/// The matrix, its columns in their places.
fn numbers(folder: &GroupedDir) -> Vec<f32> {
    let view = folder.tensor("model.x.weight").unwrap();
    let (rows, cols) = (view.shape[0], view.shape[1]);
    let mut stored = vec![0.0; rows * cols];
    dequantize(view.dtype, &view.bytes, &mut stored);
    let Some(order) = folder.column_order("model.x.weight") else { return stored };
    let mut numbers = vec![f32::NAN; rows * cols];
    for (i, number) in stored.into_iter().enumerate() {
        numbers[i / cols * cols + order[i % cols] as usize] = number;
    }
    numbers
}

/// One file of safetensors.
fn write(dir: &Path, tensors: &[(String, &'static str, Vec<usize>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}

fn forms() -> impl Strategy<Value = (Form, usize, bool)> {
    let four = prop::sample::select(vec![Form::Gptq(1), Form::Gptq(2), Form::Awq, Form::Packed]);
    let eight = prop::sample::select(vec![Form::Gptq(1), Form::Gptq(2), Form::Packed, Form::Plain]);
    prop_oneof![3 => (four, Just(4), any::<bool>()), 2 => (eight, Just(8), any::<bool>())]
}

fn plans() -> impl Strategy<Value = (Form, bool, Plan)> {
    let shape = (prop::sample::select(vec![32usize, 64, 96, 128]), 1usize..4, 1usize..6);
    (forms(), shape).prop_flat_map(|((form, bits, symmetric), (group, groups, eights))| {
        let (rows, cols) = (8 * eights, group * groups);
        let top = 1u32 << bits;
        let zero = if symmetric { top / 2..top / 2 + 1 } else { 0..top };
        let codes = prop::collection::vec(0..top, rows * cols);
        let zeros = prop::collection::vec(zero, rows * groups);
        let scales = prop::collection::vec((-2.0f32..2.0).prop_map(f16::from_f32), rows * groups);
        let ordered = Just(in_order(cols, group));
        let order = match form {
            Form::Gptq(_) | Form::Packed => prop_oneof![ordered.clone(), ordered.prop_shuffle()].boxed(),
            Form::Awq | Form::Plain => ordered.boxed(),
        };
        (codes, zeros, scales, order).prop_map(move |(codes, zeros, scales, order)| {
            (form, symmetric, Plan { rows, cols, group, bits, codes, zeros, scales, groups: order })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_form_reads_as_its_numbers((form, symmetric, plan) in plans()) {
        let folder = plan.open(form).unwrap();
        prop_assert_eq!(folder.tensor_names(), ["model.x.weight"]);
        let info = folder.info("model.x.weight").unwrap();
        let view = folder.tensor("model.x.weight").unwrap();
        prop_assert_eq!((view.dtype, &view.shape), (info.dtype, &info.shape));
        prop_assert_eq!(view.shape, [plan.rows, plan.cols]);
        let middle = 1u32 << (plan.bits - 1);
        prop_assert!(symmetric || view.dtype.name().starts_with('U') || plan.zeros.iter().all(|&zero| zero == middle));
        prop_assert!(!symmetric || view.dtype.name().starts_with('I') || view.dtype == DType::Q8_0);
        prop_assert_eq!(folder.column_order("model.x.weight").is_none(), plan.groups.is_sorted());
        prop_assert_eq!(numbers(&folder), plan.numbers());
    }

    /// Panels are packed from rows in any order: their blocks are those of the whole matrix.
    #[test]
    fn rows_read_alone_are_those_of_the_whole(
        (form, _, plan) in plans(),
        rows in prop::collection::vec(any::<prop::sample::Index>(), 1..=16),
    ) {
        let folder = plan.open(form).unwrap();
        let (view, source) = (folder.tensor("model.x.weight").unwrap(), folder.rows("model.x.weight").unwrap());
        let rows: Vec<usize> = rows.into_iter().map(|row| row.index(plan.rows)).collect();
        let mut buffer = Vec::new();
        let read = source.read(&rows, &mut buffer);
        for (read, row) in read.iter().zip(rows) {
            prop_assert_eq!(*read, &view.bytes[row * source.row_bytes()..][..source.row_bytes()]);
        }
    }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// A matrix of `layouts.json`: its form, its elements, and the tensors that a library made of it.
type Packed = (Form, Plan, Vec<(String, &'static str, Vec<usize>, Vec<u8>)>);

fn packed_by_libraries() -> Vec<(String, Packed)> {
    let cases: Value = serde_json::from_str(include_str!("golden/quant/layouts.json")).unwrap();
    cases.as_array().unwrap().iter().map(|case| (case["name"].to_string(), packed_by_a_library(case))).collect()
}

fn packed_by_a_library(case: &Value) -> Packed {
    let number = |key: &str| case[key].as_u64().unwrap() as usize;
    let form = match (case["packer"].as_str().unwrap(), number("group") == number("cols")) {
        ("auto-gptq", _) => Form::Gptq(1),
        ("gptqmodel", _) => Form::Gptq(2),
        ("autoawq", _) => Form::Awq,
        ("compressed-tensors", true) => Form::Plain,
        ("compressed-tensors", false) => Form::Packed,
        (other, _) => panic!("a packer called {other}"),
    };
    let plan = Plan {
        rows: number("rows"),
        cols: number("cols"),
        group: number("group"),
        bits: number("bits"),
        codes: bytes(&case["codes"]).into_iter().map(u32::from).collect(),
        zeros: bytes(&case["zeros"]).into_iter().map(u32::from).collect(),
        scales: bytes(&case["scales"]).as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes)).collect(),
        groups: bytes(&case["groups"]).into_iter().map(usize::from).collect(),
    };
    let dtype = |part: &str| match part {
        "scales" | "weight_scale" => "F16",
        "weight_shape" => "I64",
        "weight" => "I8",
        "weight_zero_point" if form == Form::Plain => "I8",
        _ => "I32",
    };
    let tensor = |(part, tensor): (&String, &Value)| {
        let shape = tensor[0].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        (format!("model.x.{part}"), dtype(part), shape, bytes(&tensor[1]))
    };
    (form, plan, case["tensors"].as_object().unwrap().iter().map(tensor).collect())
}

#[test]
fn what_libraries_packed_reads_as_its_numbers() {
    for (name, (form, plan, tensors)) in packed_by_libraries() {
        let numbers = numbers(&open(&tensors, &plan.config(form)).unwrap());
        assert_eq!(numbers, plan.numbers(), "{name}");
    }
}

/// So that the properties above hold for these libraries' layouts.
#[test]
fn libraries_pack_as_the_definitions_say() {
    for (name, (form, plan, tensors)) in packed_by_libraries() {
        let expected = plan.tensors(form);
        for tensor in &tensors {
            assert!(expected.contains(tensor), "{name}: {}", tensor.0);
        }
    }
}

/// 16 rows of 64 columns in two groups.
fn plan() -> Plan {
    let (rows, cols, group) = (16, 64, 32);
    let codes = (0..rows * cols).map(|i| i as u32 * 7 % 16).collect();
    Plan {
        rows,
        cols,
        group,
        bits: 4,
        codes,
        zeros: vec![3; 2 * rows],
        scales: vec![f16::from_f32(0.5); 2 * rows],
        groups: in_order(cols, group),
    }
}

/// The error of opening a plan whose tensors or configuration were changed.
fn refused(change: impl Fn(&mut Vec<(String, &'static str, Vec<usize>, Vec<u8>)>, &mut Value)) -> String {
    let (plan, dir) = (plan(), tempfile::tempdir().unwrap());
    let (mut tensors, mut config) = (plan.tensors(Form::Gptq(1)), plan.config(Form::Gptq(1)));
    change(&mut tensors, &mut config);
    write(dir.path(), &tensors);
    let opened = SafetensorsDir::open(dir.path()).and_then(|folder| GroupedDir::new(folder, &config));
    opened.unwrap_err().to_string()
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let says = |error: String, words: &str| assert!(error.contains(words), "{error}");
    says(refused(|_, config| config["quant_method"] = "bitsandbytes".into()), "bitsandbytes");
    says(refused(|_, config| config["bits"] = 3.into()), "3 bits");
    says(refused(|_, config| config["checkpoint_format"] = "marlin".into()), "marlin");
    says(refused(|_, config| config["dynamic"] = json!({"-:.*gate": {}, ".*down.*": {"bits": 8}})), "dynamic");
    says(refused(|_, config| config["group_size"] = 0.into()), "group size of 0");
    says(refused(|_, config| config["group_size"] = 48.into()), "groups of 48");
    says(refused(|tensors, _| tensors[3].3[0] = 1), "groups are not all of 32 columns");
    says(refused(|tensors, _| tensors[3].3[0] = 9), "groups are not all of 32 columns");
    says(refused(|tensors, _| tensors.truncate(1)), "'model.x.scales' is missing");
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let says = |error: String, words: &str| assert!(error.contains(words), "{error}");
    says(refused(|tensors, _| tensors[2].2 = vec![1, 32]), "scales of type F16 and shape [1, 32]");
    says(refused(|tensors, _| tensors[2].1 = "I16"), "scales of type I16");
    says(refused(|tensors, _| tensors[0].1 = "U32"), "codes of type U32");
    says(refused(|tensors, _| tensors[1].2 = vec![4, 1]), "zero points of type I32 and shape [4, 1]");
    says(refused(|tensors, _| (tensors[3].1, tensors[3].2) = ("I64", vec![32])), "an order of type I64");
    // More numbers than bytes.
    says(refused(|tensors, _| tensors[0].2 = vec![800, 16]), "[800, 16] does not take");
    says(refused(|tensors, _| tensors[0].2 = vec![1 << 40, 1 << 40]), "does not take");
}

#[test]
fn a_scale_beyond_float16_is_an_error_and_not_an_infinity() {
    let (plan, dir) = (plan(), tempfile::tempdir().unwrap());
    let mut tensors = plan.tensors(Form::Packed);
    let huge = [1e30f32; 32].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    (tensors[2].1, tensors[2].3) = ("F32", huge);
    write(dir.path(), &tensors);
    let folder = GroupedDir::new(SafetensorsDir::open(dir.path()).unwrap(), &plan.config(Form::Packed)).unwrap();
    let error = folder.tensor("model.x.weight").unwrap_err().to_string();
    assert!(error.contains("'model.x' has a scale that is no number"), "{error}");
}

/// Rows of one scale whose inputs are to be int8 keep it as it is; others of the same tensors have scales of f16 for each 32.
#[test]
fn rows_of_one_scale_keep_it_where_inputs_are_int8() {
    let (rows, cols) = (5, 96);
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 37 % 256) as u8).collect();
    let scales: Vec<f32> = (0..rows).map(|row| 0.1 + row as f32 / 3.0).collect();
    let tensors = [
        ("model.x.weight".to_owned(), "I8", vec![rows, cols], codes.clone()),
        (
            "model.x.weight_scale".to_owned(),
            "F32",
            vec![rows, 1],
            scales.iter().flat_map(|x| x.to_le_bytes()).collect(),
        ),
    ];
    let inputs = |bits: usize| json!({"num_bits": bits, "type": "int", "strategy": "token", "dynamic": true});
    for (inputs, dtype) in [(inputs(8), DType::I8_ROW), (Value::Null, DType::Q8_0), (inputs(4), DType::Q8_0)] {
        let config = json!({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            "input_activations": inputs}}});
        let folder = open(&tensors, &config).unwrap();
        assert_eq!(folder.info("model.x.weight").unwrap().dtype, dtype, "{inputs}");
        for (i, number) in numbers(&folder).into_iter().enumerate() {
            let scale = scales[i / cols];
            let kept = if dtype == DType::I8_ROW { scale } else { f16::from_f32(scale).to_f32() };
            assert_eq!(number, kept * f32::from(codes[i] as i8), "{inputs}: {i}");
        }
    }
}
