//! The sampler against the one that is written down first (`reference`), and against itself in company.

use proptest::prelude::*;

use super::reference;
use super::softmax::BLOCK;
use super::*;

/// A row, and everything that decides what is drawn from it.
#[derive(Debug, Clone)]
struct Case {
    logits: Vec<f32>,
    params: SamplingParams,
    prompt: Vec<TokenId>,
    output: Vec<TokenId>,
    seed: u64,
}

impl Case {
    fn context(&self) -> SampleContext<'_> {
        let Self { params, prompt, output, seed, .. } = self;
        SampleContext { params, seed: *seed, prompt, output, eos: &[1] }
    }

    fn sample(&self, scratch: &mut SampleScratch) -> Result<Sampled> {
        sample(&mut self.logits.clone(), self.context(), scratch)
    }

    fn position(&self) -> usize {
        self.prompt.len() + self.output.len()
    }
}

/// Some logits are masked, and many are equal.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -8.0f32..8.0,
        2 => (-3i8..3).prop_map(f32::from),
        1 => prop_oneof![Just(f32::NEG_INFINITY), Just(f32::NAN), Just(f32::INFINITY)],
    ]
}

fn off_or<T: Clone + std::fmt::Debug>(off: T, on: impl Strategy<Value = T>) -> impl Strategy<Value = T> {
    prop_oneof![Just(off), on]
}

fn params(vocab_size: usize) -> impl Strategy<Value = SamplingParams> {
    let truncation =
        (off_or(0, 1..vocab_size + 2), off_or(1.0, 0.01f32..1.0), off_or(1.0, 0.01f32..1.0), off_or(0.0, 0.0f32..1.0));
    let penalties = (off_or(1.0, 0.5f32..2.0), off_or(0.0, -2.0f32..2.0), off_or(0.0, -2.0f32..2.0));
    let bias = prop::collection::vec((0..vocab_size as TokenId, -5.0f32..5.0), 0..3);
    (truncation, penalties, bias, off_or(1.0, 0.1f32..3.0), 0usize..6).prop_map(
        |((top_k, top_p, typical_p, min_p), (repetition, presence, frequency), logit_bias, temperature, min_tokens)| {
            SamplingParams {
                top_k,
                top_p,
                typical_p,
                min_p,
                repetition_penalty: repetition,
                presence_penalty: presence,
                frequency_penalty: frequency,
                logit_bias,
                temperature,
                min_tokens,
                stop_token_ids: vec![2],
                ..SamplingParams::default()
            }
        },
    )
}

/// Vocabularies within one block and across several.
fn case() -> impl Strategy<Value = Case> {
    prop_oneof![3usize..40, BLOCK - 2..3 * BLOCK].prop_flat_map(|vocab_size| {
        let tokens = || prop::collection::vec(0..vocab_size as TokenId, 0..8);
        (prop::collection::vec(logit(), vocab_size), params(vocab_size), tokens(), tokens(), any::<u64>())
            .prop_map(|(logits, params, prompt, output, seed)| Case { logits, params, prompt, output, seed })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn draws_what_the_reference_draws(case in case()) {
        let Some(expected) = reference::distribution(&case.logits, &case.context()) else { return Ok(()) };
        let u = random::u01(case.seed, case.position());
        let Some(expected) = reference::draw(&expected, u) else { return Ok(()) };
        prop_assert_eq!(case.sample(&mut SampleScratch::default()).unwrap().token_id, expected);
    }

    #[test]
    fn may_draw_the_tokens_that_the_reference_may_draw(case in case()) {
        let Some(expected) = reference::distribution(&case.logits, &case.context()) else { return Ok(()) };
        prop_assume!(!truncate::is_off(&case.params));
        let mut scratch = SampleScratch::default();
        let mut logits = case.logits.clone();
        processors::process(&mut logits, &case.context(), &mut scratch.edits, &mut scratch.counts);
        let (_, max) = softmax::argmax(&logits).unwrap();
        let softmax = softmax::Softmax { max, temperature: case.params.temperature };
        truncate::truncate(&logits, &case.params, softmax, &mut scratch);
        let ids: Vec<_> = scratch.candidates.iter().map(|c| c.id).collect();
        prop_assert_eq!(ids, expected.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    }

    #[test]
    fn greedy_and_top_1_take_the_best_processed_logit(mut case in case()) {
        let logits = reference::processed(&case.logits, &case.context());
        let best = logits.iter().filter(|l| l.is_finite()).fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let unclear = logits.iter().filter(|&&l| l != best && (l - best).abs() < 1e-5).count() > 0;
        prop_assume!(best.is_finite() && !unclear);
        let expected = logits.iter().position(|&l| l == best).unwrap() as TokenId;
        case.params.top_k = 1;
        prop_assert_eq!(case.sample(&mut SampleScratch::default()).unwrap().token_id, expected);
        case.params.temperature = 0.0;
        prop_assert_eq!(case.sample(&mut SampleScratch::default()).unwrap().token_id, expected);
    }

    #[test]
    fn what_was_sampled_before_does_not_matter(first in case(), second in case()) {
        let mut shared = SampleScratch::default();
        let _ = first.sample(&mut shared);
        let fresh = second.sample(&mut SampleScratch::default());
        prop_assert_eq!(second.sample(&mut shared).ok(), fresh.ok());
    }

    #[test]
    fn the_row_is_left_as_it_was(case in case()) {
        let mut logits = case.logits.clone();
        let _ = sample(&mut logits, case.context(), &mut SampleScratch::default());
        let bits = |row: &[f32]| row.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&logits), bits(&case.logits));
    }

    #[test]
    fn logprobs_are_the_log_softmax_of_the_untouched_row(case in case(), num_top in 0usize..12) {
        let finite: Vec<f64> = case.logits.iter().filter(|l| l.is_finite()).map(|&l| f64::from(l)).collect();
        prop_assume!(!finite.is_empty());
        let log_sum = finite.iter().map(|l| l.exp()).sum::<f64>().ln();
        let mut order: Vec<usize> = (0..case.logits.len()).filter(|&id| case.logits[id].is_finite()).collect();
        order.sort_by(|&a, &b| case.logits[b].total_cmp(&case.logits[a]).then(a.cmp(&b)));
        for (rank, &id) in order.iter().enumerate().take(40) {
            let got = token_logprob(&case.logits, id as TokenId, num_top, &mut SampleScratch::default());
            prop_assert_eq!((got.token_id, got.rank), (id as TokenId, rank));
            prop_assert!((f64::from(got.logprob) - (f64::from(case.logits[id]) - log_sum)).abs() < 1e-5);
            let top: Vec<_> = got.top.iter().map(|(id, _)| *id as usize).collect();
            prop_assert_eq!(&top[..], &order[..num_top.min(order.len())]);
        }
    }
}

#[test]
fn frequencies_follow_the_distribution() {
    let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
    let full = SamplingParams::default();
    let nucleus = SamplingParams { top_p: 0.85, ..SamplingParams::default() };
    for (params, expected) in [(full, [0.4, 0.3, 0.2, 0.1]), (nucleus, [4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0, 0.0])] {
        let mut counts = [0u32; 4];
        let mut case = Case { logits: logits.clone(), params, prompt: vec![0], output: vec![], seed: 0 };
        let draws = 40_000;
        let mut scratch = SampleScratch::default();
        for seed in 0..draws {
            case.seed = seed;
            counts[case.sample(&mut scratch).unwrap().token_id as usize] += 1;
        }
        for (count, p) in counts.iter().zip(expected) {
            let mean = p * draws as f64;
            let deviation = (mean * (1.0 - p)).sqrt();
            assert!((f64::from(*count) - mean).abs() <= 3.5 * deviation, "{counts:?} for {expected:?}");
        }
    }
}

#[test]
fn a_row_without_a_finite_logit_is_an_error() {
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let case = Case { logits: vec![f32::NAN; 9], params, prompt: vec![3, 4], output: vec![5], seed: 0 };
        let message = case.sample(&mut SampleScratch::default()).unwrap_err().to_string();
        assert!(message.contains("position 3"), "{message}");
    }
}

#[test]
fn extreme_temperatures_stay_within_the_nucleus() {
    let logits = vec![3.0f32, 2.999, -40.0, 3.0];
    for temperature in [f32::MIN_POSITIVE / 8.0, 1e-6, 1e30] {
        let params = SamplingParams { temperature, top_p: 0.01, ..SamplingParams::default() };
        for seed in 0..50 {
            let case = Case { logits: logits.clone(), params: params.clone(), prompt: vec![0], output: vec![], seed };
            assert_eq!(case.sample(&mut SampleScratch::default()).unwrap().token_id, 0);
        }
    }
}
