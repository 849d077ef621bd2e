//! What the device chooses when a caller forbids tokens, as a grammar does.

use ferrule_engine::config::Device;
use ferrule_engine::cuda;
use ferrule_engine::cuda::driver::{DeviceBuffer, Stream};
use ferrule_engine::cuda::launch::Kernels;
use ferrule_engine::cuda::sampler::Sampler;
use ferrule_engine::sample::{Choice, Edit, RowEdits, RowMask, SamplePlan};

use crate::emulated_device;

const VOCAB_SIZE: usize = 1100;

fn greedy(row: usize) -> Choice {
    Choice { row, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 1, position: 3 }
}

fn allowed(tokens: &[usize]) -> Vec<u32> {
    let mut words = vec![0; VOCAB_SIZE.div_ceil(32)];
    tokens.iter().for_each(|token| words[token / 32] |= 1 << (token % 32));
    words
}

#[test]
fn tokens_outside_a_mask_are_never_chosen() {
    let Some(_device) = emulated_device() else { return };
    let context = cuda::open(Device::CudaEmu).unwrap().context(0).unwrap();
    let kernels = Kernels::load(&context, |_| Ok(vec![0])).unwrap();
    let stream = Stream::new(&context).unwrap();
    // Later tokens are better.
    let logits: Vec<f32> = (0..5 * VOCAB_SIZE).map(|i| (i % VOCAB_SIZE) as f32 / 64.0).collect();
    let mask = |row, tokens: &[usize]| RowMask { row, allowed: allowed(tokens) };
    let bias = Edit { token: 40, bias: 100.0, count: 0, is_banned: false, is_seen: false };
    let edits = RowEdits { row: 3, repetition: 1.0, frequency: 0.0, presence: 0.0, edits: vec![bias] };
    let plan = SamplePlan {
        choices: (0..5).map(greedy).collect(),
        edits: vec![edits],
        masks: vec![mask(1, &[3, 1023, 1024]), mask(2, &[]), mask(3, &[7, 40, 900]), mask(4, &[0])],
    };
    let mut sampler = Sampler::new(&context, 5).unwrap();
    for _ in 0..3 {
        let on_device = DeviceBuffer::from_slice(&context, &logits).unwrap();
        sampler.choose(&plan, on_device.all(), VOCAB_SIZE, &kernels, &stream).unwrap();
        assert_eq!(sampler.chosen().unwrap(), [Some(1099), Some(1024), None, Some(40), Some(0)]);
    }
}
