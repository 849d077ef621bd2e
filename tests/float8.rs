//! Folders of eight-bit floats, read as the numbers that they stand for.

use ferrule_engine::quant::{DType, PackedMatrix, dequantize};
use ferrule_engine::weights::{Checkpoint, Float8Dir, SafetensorsDir};
use half::bf16;
use proptest::prelude::*;
use serde_json::{Value, json};

/// E4M3 as its paper defines it: a bias of 7, subnormal numbers, no infinity.
fn value(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
    if code & 0x80 == 0 { size } else { -size }
}

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Share {
    Tensor,
    Row,
    /// 8 rows and 64 columns; those at the ends are smaller.
    Block,
}

#[derive(Debug, Clone)]
struct Plan {
    rows: usize,
    cols: usize,
    share: Share,
    codes: Vec<u8>,
    /// As many as there could be at most.
    scales: Vec<bf16>,
}

impl Plan {
    fn scale_shape(&self) -> Vec<usize> {
        match self.share {
            Share::Tensor => vec![1],
            Share::Row => vec![self.rows, 1],
            Share::Block => vec![self.rows.div_ceil(8), self.cols.div_ceil(64)],
        }
    }

    fn scale(&self, row: usize, col: usize) -> f32 {
        let at = match self.share {
            Share::Tensor => 0,
            Share::Row => row,
            Share::Block => row / 8 * self.cols.div_ceil(64) + col / 64,
        };
        self.scales[at].to_f32()
    }

    fn config(&self) -> Value {
        match self.share {
            Share::Block => json!({"quant_method": "fp8", "weight_block_size": [8, 64]}),
            _ => json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}),
        }
    }

    fn open(&self, scale_bytes: &[u8]) -> ferrule_engine::Result<Float8Dir> {
        self.open_with(scale_bytes, &self.config())
    }

    fn open_with(&self, scale_bytes: &[u8], config: &Value) -> ferrule_engine::Result<Float8Dir> {
        let scale_name = if self.share == Share::Block { "x.weight_scale_inv" } else { "x.weight_scale" };
        let codes_end = self.codes.len();
        let end = codes_end + scale_bytes.len();
        let tensors = json!({
            "x.weight": {"dtype": "F8_E4M3", "shape": [self.rows, self.cols], "data_offsets": [0, codes_end]},
            scale_name: {"dtype": "BF16", "shape": self.scale_shape(), "data_offsets": [codes_end, end]},
            "x.input_scale": {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]},
        });
        let header = serde_json::to_vec(&tensors).unwrap();
        let file = [&(header.len() as u64).to_le_bytes()[..], &header, &self.codes, scale_bytes, &[0; 4]].concat();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
        assert!(Float8Dir::is_meant(config));
        Float8Dir::new(SafetensorsDir::open(dir.path())?, config)
    }

    fn scale_bytes(&self) -> Vec<u8> {
        let count = self.scale_shape().iter().product();
        self.scales[..count].iter().flat_map(|scale| scale.to_le_bytes()).collect()
    }
}

fn plans() -> impl Strategy<Value = Plan> {
    let share = prop::sample::select(vec![Share::Tensor, Share::Row, Share::Block]);
    (share, 1usize..40, 1usize..6).prop_flat_map(|(share, rows, groups)| {
        let cols = 32 * groups;
        let code = any::<u8>().prop_map(|code| if code & 0x7f == 0x7f { code & 0x80 } else { code });
        let scale = (-3.0f32..3.0).prop_map(bf16::from_f32);
        (prop::collection::vec(code, rows * cols), prop::collection::vec(scale, rows.max(8) * groups))
            .prop_map(move |(codes, scales)| Plan { rows, cols, share, codes, scales })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_number_is_its_float_times_its_scale(plan in plans()) {
        let folder = plan.open(&plan.scale_bytes()).unwrap();
        prop_assert_eq!(folder.tensor_names(), ["x.weight"]);
        let (view, rows) = (folder.tensor("x.weight").unwrap(), folder.rows("x.weight").unwrap());
        prop_assert_eq!((view.dtype, &view.shape[..]), (DType::F8_E4M3, &[plan.rows, plan.cols][..]));
        let mut numbers = vec![0.0; plan.codes.len()];
        dequantize(view.dtype, &view.bytes, &mut numbers);
        let packed = PackedMatrix::zeroed(view.dtype, plan.rows, plan.cols).unwrap();
        // SAFETY: one thread.
        unsafe { packed.pack_panels(&*rows, &|row| row, 0..packed.num_panels()) };
        let mut row_numbers = vec![0.0; plan.cols];
        for row in 0..plan.rows {
            packed.decode_row(row, &mut row_numbers);
            for col in 0..plan.cols {
                let at = row * plan.cols + col;
                let expected = plan.scale(row, col) * value(plan.codes[at]);
                prop_assert_eq!(numbers[at], expected, "row {}, column {}", row, col);
                prop_assert_eq!(row_numbers[col], expected, "packed row {}, column {}", row, col);
            }
        }
    }
}

fn plan(share: Share) -> Plan {
    Plan { rows: 16, cols: 64, share, codes: vec![0x38; 16 * 64], scales: vec![bf16::ONE; 16] }
}

#[test]
fn what_is_no_number_is_refused() {
    let says = |folder: ferrule_engine::Result<Float8Dir>, words: &str| {
        let error = folder.and_then(|folder| folder.tensor("x.weight").map(drop)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let mut nan = plan(Share::Tensor);
    nan.codes[700] = 0xff;
    says(nan.open(&nan.scale_bytes()), "'x.weight' has a weight or a scale that is no number");
    let row = plan(Share::Row);
    let mut bytes = row.scale_bytes();
    bytes[30..].copy_from_slice(&bf16::INFINITY.to_le_bytes());
    says(row.open(&bytes), "'x.weight' has a weight or a scale that is no number");
}

#[test]
fn scales_that_do_not_fit_are_named() {
    let odd = Plan { cols: 48, codes: vec![0; 16 * 48], ..plan(Share::Row) };
    let error = odd.open(&odd.scale_bytes()).unwrap_err().to_string();
    assert!(error.contains("48 columns"), "{error}");
    // Scales of blocks, where the configuration has none.
    let blocks = plan(Share::Block);
    let config = json!({"quant_method": "fp8"});
    let error = blocks.open_with(&blocks.scale_bytes(), &config).unwrap_err().to_string();
    assert!(error.contains("scales of type BF16 and shape [2, 1]"), "{error}");
}
