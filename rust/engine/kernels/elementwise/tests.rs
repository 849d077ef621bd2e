use proptest::prelude::*;

use super::*;
use crate::config::Isa;

/// Every tier that this machine has.
fn tiers() -> Vec<Kernels> {
    [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16]
        .into_iter()
        .filter_map(|isa| Kernels::new(Some(isa)).ok())
        .collect()
}

/// A row of any length up to a few vectors, small and large values mixed.
fn row() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![-4.0f32..4.0, -90.0f32..90.0, -1e-3f32..1e-3], 1..150)
}

/// `got` is within `bound` of `want`, relative to |want| with a floor of `floor`.
fn assert_close(got: &[f32], want: &[f64], bound: f64, floor: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / want.abs().max(floor);
        assert!(error <= bound, "{what}[{i}]: {got} is not {want}, error {error:.2e}");
    }
}

/// Runs `kernel` on `x` in every tier, at several alignments, and compares with `reference`.
fn check(x: &[f32], bound: f64, floor: f64, kernel: impl Fn(&Kernels, &mut [f32]), reference: impl Fn(usize) -> f64) {
    let want: Vec<f64> = (0..x.len()).map(reference).collect();
    for kernels in tiers() {
        let mut results = (0..3).map(|offset| {
            let mut padded = vec![f32::NAN; x.len() + offset + 1];
            padded[offset..offset + x.len()].copy_from_slice(x);
            kernel(&kernels, &mut padded[offset..offset + x.len()]);
            assert!(padded[offset + x.len()].is_nan(), "{}: wrote past the end", kernels.isa());
            padded[offset..offset + x.len()].to_vec()
        });
        let first = results.next().unwrap();
        assert_close(&first, &want, bound, floor, &kernels.isa().to_string());
        assert!(results.all(|other| other == first), "{}: depends on alignment", kernels.isa());
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn wide(x: f32) -> f64 {
    f64::from(x)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn rms_norm_divides_by_the_rms(x in row(), eps in prop_oneof![Just(1e-5f32), Just(1e-6)]) {
        let weight: Vec<f32> = (0..x.len()).map(|i| 0.5 + (i % 7) as f32 * 0.25).collect();
        let mean = x.iter().map(|&x| wide(x).powi(2)).sum::<f64>() / x.len() as f64;
        let norm = (mean + wide(eps)).sqrt();
        check(&x, 1e-6, 0.0, |k, x| k.rms_norm_inplace(x, &weight, eps), |i| wide(x[i]) / norm * wide(weight[i]));
        for k in tiers() {
            let mut out = vec![0.0; x.len()];
            k.rms_norm(&x, &weight, eps, &mut out);
            let mut inplace = x.clone();
            k.rms_norm_inplace(&mut inplace, &weight, eps);
            prop_assert_eq!(out, inplace);
        }
    }

    #[test]
    fn rope_rotates_pairs_and_leaves_the_rest(
        head in prop::collection::vec(-4.0f32..4.0, 2..200),
        part in 0.0f32..1.0,
        num_heads in 1usize..4,
    ) {
        let half = (head.len() as f32 * part / 2.0) as usize;
        let angle = |i: usize| 0.3 + i as f64 * 0.7;
        let cos: Vec<f32> = (0..half).map(|i| angle(i).cos() as f32).collect();
        let sin: Vec<f32> = (0..half).map(|i| angle(i).sin() as f32).collect();
        check(&head.repeat(num_heads), 1e-6, 4.0, |k, x| k.rope(x, head.len(), &cos, &sin), |i| {
            let i = i % head.len();
            let pair = |i: usize| (wide(head[i]), wide(head[i + half]));
            match i {
                i if i < half => pair(i).0 * angle(i).cos() - pair(i).1 * angle(i).sin(),
                i if i < 2 * half => pair(i - half).1 * angle(i - half).cos() + pair(i - half).0 * angle(i - half).sin(),
                i => wide(head[i]),
            }
        });
    }

    #[test]
    fn add_and_scale_round_once(x in row(), factor in -3.0f32..3.0) {
        let y: Vec<f32> = x.iter().rev().copied().collect();
        check(&x, 1e-7, 1e-30, |k, x| k.add(x, &y), |i| wide(x[i] + y[i]));
        check(&x, 1e-7, 1e-30, |k, x| k.scale(x, factor), |i| wide(x[i] * factor));
    }

    #[test]
    fn gates_match_their_formulas(x in row()) {
        let up: Vec<f32> = x.iter().rev().map(|x| x * 0.1 + 1.0).collect();
        let silu = |k: &Kernels, x: &mut [f32]| k.gated_activation(Activation::Silu, x, &up);
        check(&x, 1e-6, 1e-28, silu, |i| wide(x[i]) * sigmoid(wide(x[i])) * wide(up[i]));
        // The cubic argument magnifies rounding where the result is all but zero.
        let gelu = |k: &Kernels, x: &mut [f32]| k.gated_activation(Activation::GeluTanh, x, &up);
        check(&x, 2e-6, 1e-2, gelu, |i| gelu_tanh(wide(x[i])) * wide(up[i]));
    }

    #[test]
    fn softcap_is_accurate_near_zero_and_far(x in row(), cap in prop_oneof![Just(30.0f32), Just(50.0), 0.5f32..100.0]) {
        check(&x, 1e-6, 1e-35, |k, x| k.softcap(x, cap), |i| wide(cap) * (wide(x[i]) / wide(cap)).tanh());
    }

    #[test]
    fn vector_tiers_agree_bit_for_bit(x in row()) {
        let run = |isa| Kernels::new(Some(isa)).ok().map(|k| {
            let mut rows = vec![x.clone(); 4];
            k.rms_norm_inplace(&mut rows[0], &vec![1.5; x.len()], 1e-5);
            k.gated_activation(Activation::Silu, &mut rows[1], &x);
            k.gated_activation(Activation::GeluTanh, &mut rows[2], &x);
            k.softcap(&mut rows[3], 30.0);
            rows
        });
        if let (Some(avx2), Some(avx512)) = (run(Isa::Avx2), run(Isa::Avx512)) {
            prop_assert_eq!(avx2, avx512);
        }
    }
}

#[test]
fn nan_stays_nan_and_infinity_has_its_limit() {
    for k in tiers() {
        for n in [1, 5, 16, 21] {
            let ones = vec![1.0; n];
            let mut row = vec![f32::NAN; n];
            for activation in [Activation::Silu, Activation::GeluTanh] {
                k.gated_activation(activation, &mut row, &ones);
            }
            k.softcap(&mut row, 30.0);
            k.rms_norm_inplace(&mut row, &ones, 1e-6);
            assert!(row.iter().all(|x| x.is_nan()), "{}", k.isa());

            let mut row = vec![f32::INFINITY; n];
            k.gated_activation(Activation::Silu, &mut row, &ones);
            assert_eq!(row, vec![f32::INFINITY; n]);
            k.softcap(&mut row, 30.0);
            assert_eq!(row, vec![30.0; n]);
        }
    }
}

#[test]
fn one_nan_spoils_only_what_depends_on_it() {
    for k in tiers() {
        let mut row = vec![1.0; 40];
        row[17] = f32::NAN;
        k.gated_activation(Activation::Silu, &mut row, &[1.0; 40]);
        assert_eq!(row.iter().filter(|x| x.is_nan()).count(), 1);
        k.rms_norm_inplace(&mut row, &[1.0; 40], 1e-6);
        assert!(row.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn empty_rows_are_no_trouble() {
    for k in tiers() {
        k.rms_norm_inplace(&mut [], &[], 1e-6);
        k.add(&mut [], &[]);
        k.rope(&mut [1.0], 1, &[], &[]);
        k.softcap(&mut [], 1.0);
    }
}
