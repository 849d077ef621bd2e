//! Attention over the paged cache: every tier against a naive reference in float64, and every way of
//! cutting the work against every other, bit for bit.

use std::marker::PhantomData;
use std::sync::Mutex;

use ferrule_engine::config::{Isa, KvDtype};
use ferrule_engine::ids::{BlockId, EXTENT_BLOCKS};
use ferrule_engine::kernels::threads::{Lane, Pool};
use ferrule_engine::kernels::{AttentionTask, BLOCK_SIZE, Kernels, KvLayer, KvShape, Prefix};
use half::{bf16, f16};
use proptest::prelude::*;

/// A sequence's keys, values and queries, by (position, head, dimension).
#[derive(Debug, Clone)]
struct World {
    shape: KvShape,
    group: usize,
    len: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    seed: u64,
}

const DTYPES: [KvDtype; 5] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Fp8];

fn world() -> impl Strategy<Value = World> {
    let dtype = proptest::sample::select(&DTYPES[..]);
    let head_dim = prop_oneof![Just(2usize), Just(14), Just(40), Just(64), Just(80), Just(96), Just(128), Just(256)];
    let window = prop_oneof![Just(None), (1usize..40).prop_map(Some), (200usize..600).prop_map(Some)];
    let softcap = prop_oneof![3 => Just(None), 1 => Just(Some(5.0f32))];
    (dtype, head_dim, 1usize..4, 1usize..=16, 1usize..600, window, softcap, any::<u64>()).prop_map(
        |(dtype, head_dim, num_kv_heads, group, len, window, softcap, seed)| World {
            shape: KvShape { dtype, num_kv_heads, head_dim },
            group,
            len,
            window,
            softcap,
            seed,
        },
    )
}

/// SplitMix64 of a counter, as a float in -1 .. 1.
fn noise(seed: u64, i: usize) -> f32 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

impl World {
    fn scale(&self) -> f32 {
        2.0 / (self.shape.head_dim as f32).sqrt()
    }

    fn kv_dim(&self) -> usize {
        self.shape.num_kv_heads * self.shape.head_dim
    }

    fn row(&self, salt: u64, position: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| noise(self.seed ^ salt, position * len + i)).collect()
    }

    /// Heads of different sizes, so that no two have the same scale.
    fn k(&self, position: usize) -> Vec<f32> {
        self.scaled_heads(1, position, 2.0)
    }

    fn v(&self, position: usize) -> Vec<f32> {
        self.scaled_heads(2, position, 1.0)
    }

    fn scaled_heads(&self, salt: u64, position: usize, most: f32) -> Vec<f32> {
        let mut row = self.row(salt, position, self.kv_dim());
        let sizes = self.row(salt + 10, position, self.shape.num_kv_heads);
        for (head, size) in row.chunks_mut(self.shape.head_dim).zip(sizes) {
            head.iter_mut().for_each(|x| *x *= most * size.abs());
        }
        row
    }

    fn q(&self, position: usize) -> Vec<f32> {
        self.row(3, position, self.kv_dim() * self.group)
    }

    /// A head's keys or values at a position, (head_dim,), as the cache keeps them.
    fn cached(&self, x: &[f32]) -> Vec<f64> {
        let greatest = x.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
        let one = |x: f32| match self.shape.dtype {
            KvDtype::F32 => f64::from(x),
            KvDtype::F16 => f16::from_f32(x).to_f64(),
            KvDtype::Bf16 => bf16::from_f32(x).to_f64(),
            KvDtype::Int8 => f64::from((x * (127.0 / greatest)).round_ties_even() * (greatest / 127.0)),
            KvDtype::Fp8 => nearest_e4m3(x),
        };
        x.iter().map(|&x| one(x)).collect()
    }

    /// Another layer's blocks lie between two extents.
    fn extent_stride(&self) -> usize {
        (EXTENT_BLOCKS + 1) * self.shape.block_bytes()
    }

    fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Whether a tier rounds queries and weights to bf16, which it multiplies.
    fn is_rounded(&self, kernels: &Kernels) -> bool {
        matches!(self.shape.dtype, KvDtype::Bf16 | KvDtype::Fp8) && kernels.isa() == Isa::Avx512Bf16
    }

    /// One query's output (num_kv_heads * group, head_dim), by the textbook.
    fn reference(&self, position: usize, round_query: bool) -> Vec<f64> {
        let (head_dim, mut q) = (self.shape.head_dim, self.q(position));
        if round_query {
            q.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        let cached = |x: Vec<f32>| -> Vec<f64> { x.chunks(head_dim).flat_map(|head| self.cached(head)).collect() };
        let seen: Vec<_> =
            (self.first_seen(position)..=position).map(|p| (cached(self.k(p)), cached(self.v(p)))).collect();
        let head = |h: usize| {
            let kv_head = h / self.group * head_dim;
            let score = |k: &[f64]| {
                let dot: f64 = (0..head_dim).map(|d| f64::from(q[h * head_dim + d]) * k[kv_head + d]).sum();
                let score = dot * f64::from(self.scale());
                self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let scores: Vec<f64> = seen.iter().map(|(k, _)| score(k)).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let out = |d: usize| -> f64 {
                weights.iter().zip(&seen).map(|(w, (_, v))| w * v[kv_head + d]).sum::<f64>() / sum
            };
            (0..head_dim).map(out).collect::<Vec<_>>()
        };
        (0..self.shape.num_kv_heads * self.group).flat_map(head).collect()
    }
}

/// The nearest number with three bits of mantissa, or multiple of 2^-9; of two, the even one.
fn nearest_e4m3(x: f32) -> f64 {
    let exponent = f64::from(x.abs()).log2().floor().max(-6.0);
    let unit = (exponent - 3.0).exp2();
    (f64::from(x) / unit).round_ties_even() * unit
}

#[derive(Clone)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// A world's cache: every byte that no position was stored in is part of a NaN.
struct Cache {
    world: World,
    lines: Vec<Line>,
    blocks: Vec<BlockId>,
    first_block: usize,
}

impl Cache {
    /// Positions that no query from `start` on sees have no block.
    fn new(world: &World, kernels: &Kernels, start: usize, placement: u64) -> Self {
        let first_block = world.first_seen(start) / BLOCK_SIZE;
        let num_used = world.len.div_ceil(BLOCK_SIZE) - first_block;
        let mut ids: Vec<u32> = (0..2 * num_used as u32 + 3).collect();
        ids.sort_by_key(|&id| noise(placement, id as usize).to_bits());
        let blocks = ids[..num_used].iter().map(|&id| BlockId(id)).collect();
        let num_bytes = ids.len().div_ceil(EXTENT_BLOCKS) * world.extent_stride();
        let lines = vec![Line([0xff; 64]); num_bytes.div_ceil(64)];
        let mut cache = Self { world: world.clone(), lines, blocks, first_block };
        for position in world.first_seen(start)..world.len {
            cache.store(kernels, position, &world.k(position), &world.v(position));
        }
        cache
    }

    fn layer(&self) -> KvLayer<'_> {
        let extent_stride = self.world.extent_stride();
        let num_blocks = self.lines.len() * 64 / extent_stride * EXTENT_BLOCKS;
        let ptr = self.lines.as_ptr().cast::<u8>().cast_mut();
        KvLayer { ptr, extent_stride, num_blocks, shape: self.world.shape, _life: PhantomData }
    }

    fn store(&mut self, kernels: &Kernels, position: usize, k: &[f32], v: &[f32]) {
        let block = self.blocks[position / BLOCK_SIZE - self.first_block];
        let ptr = self.lines.as_mut_ptr().cast();
        let layer = KvLayer { ptr, ..self.layer() };
        // SAFETY: the layer is this cache's, and `self` is borrowed for writing.
        unsafe { kernels.store_kv(layer, block, position % BLOCK_SIZE, k, v) };
    }

    /// Calls `f` with the task of one KV head for queries start .. end.
    fn with_task(&self, kv_head: usize, q: &[f32], out: &mut [f32], start: usize, f: impl FnOnce(&AttentionTask<'_>)) {
        let World { shape, group, window, softcap, .. } = self.world;
        let stride = shape.num_kv_heads * shape.head_dim * group;
        f(&AttentionTask {
            kv: self.layer(),
            kv_head,
            group,
            blocks: &self.blocks,
            first_block: self.first_block,
            start,
            num_queries: q.len() / stride,
            window,
            next: None,
            scale: self.world.scale(),
            softcap,
            q: q.as_ptr(),
            q_stride: stride,
            q_rows: None,
            prefix: None,
            out: out.as_mut_ptr(),
            out_stride: stride,
        });
    }

    /// (queries, heads, head_dim) for the queries start .. end, cut into tasks of at most `cut` queries.
    fn attend(&self, kernels: &Kernels, start: usize, end: usize, cut: usize) -> Vec<f32> {
        let mut outs = Vec::new();
        let mut scratch = Vec::new();
        for first in (start..end).step_by(cut) {
            let q: Vec<f32> = (first..end.min(first + cut)).flat_map(|position| self.world.q(position)).collect();
            let mut out = vec![f32::NAN; q.len()];
            for kv_head in 0..self.world.shape.num_kv_heads {
                self.with_task(kv_head, &q, &mut out, first, |task| {
                    // SAFETY: the task's pointers are to this cache and to vectors of its shape.
                    unsafe { kernels.attention(task, &mut scratch) };
                });
            }
            outs.extend(out);
        }
        outs
    }

    /// The same for one task per KV head, through partials computed in reverse order.
    fn attend_by_chunks(&self, kernels: &Kernels, start: usize, end: usize) -> Vec<f32> {
        let q: Vec<f32> = (start..end).flat_map(|position| self.world.q(position)).collect();
        let mut out = vec![f32::NAN; q.len()];
        let mut scratch = vec![f32::NAN; 100_000];
        for kv_head in 0..self.world.shape.num_kv_heads {
            self.with_task(kv_head, &q, &mut out, start, |task| {
                let mut partials = vec![f32::NAN; task.chunks().len() * task.partial_len()];
                for (chunk, partial) in task.chunks().zip(partials.chunks_mut(task.partial_len())).rev() {
                    // SAFETY: the task's pointers are to this cache and to vectors of its shape.
                    unsafe { kernels.attention_partial(task, chunk, partial, &mut scratch) };
                }
                // SAFETY: as above.
                unsafe { kernels.attention_merge(task, &mut partials) };
            });
        }
        out
    }
}

fn tiers() -> Vec<Kernels> {
    [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16]
        .into_iter()
        .filter_map(|isa| Kernels::new(Some(isa)).ok())
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Where a test's last queries begin: a handful before the world's end.
fn last_queries(world: &World, num: usize) -> usize {
    world.len.saturating_sub(num)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Unused slots and blocks hold NaN, so that a finite result has not touched them.
    #[test]
    fn every_tier_matches_the_textbook(world in world(), num_queries in 1usize..6, placement: u64) {
        let start = last_queries(&world, num_queries);
        for kernels in tiers() {
            let rounds = world.is_rounded(&kernels);
            let want: Vec<f64> = (start..world.len).flat_map(|position| world.reference(position, rounds)).collect();
            let got = Cache::new(&world, &kernels, start, placement).attend(&kernels, start, world.len, world.len);
            let error = got.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).abs()).fold(0.0, |a: f64, e| {
                if e.is_nan() { e } else { a.max(e) }
            });
            // Values are below 1 in size. Over int8, vector tiers round queries and weights to 15 bits; a weight that was
            // rounded to bf16 is wrong by up to 2^-9 of itself.
            let bound = match world.shape.dtype {
                KvDtype::Int8 => 2e-4,
                _ if rounds => 2e-3,
                _ => 2e-6,
            };
            prop_assert!(error <= bound, "{}: error {error:.2e}", kernels.isa());
        }
    }

    #[test]
    fn bits_depend_on_neither_company_nor_split_nor_placement(
        world in world(), num_queries in 1usize..60, cut in 1usize..30, placements: (u64, u64),
    ) {
        let start = last_queries(&world, num_queries);
        for kernels in tiers() {
            let cache = Cache::new(&world, &kernels, start, placements.0);
            let together = bits(&cache.attend(&kernels, start, world.len, world.len));
            prop_assert_eq!(&together, &bits(&cache.attend_by_chunks(&kernels, start, world.len)), "chunks");
            let elsewhere = Cache::new(&world, &kernels, start, placements.1);
            prop_assert_eq!(&together, &bits(&elsewhere.attend(&kernels, start, world.len, cut)), "cut {}", cut);
            prop_assert_eq!(&together, &bits(&elsewhere.attend(&kernels, start, world.len, 1)), "one by one");
        }
    }

    /// Queries far from each other have their first chunks computed together, as those of sequences with one prefix.
    #[test]
    fn bits_do_not_depend_on_who_shares_a_prefix(
        world in world(), ends in proptest::collection::vec(256usize..600, 2..6), placement: u64, behind in 0usize..3,
    ) {
        let len = ends.iter().max().copied().unwrap_or(0);
        let world = World { window: None, len, ..world };
        let num_chunks = ends.iter().min().map_or(0, |end| end / 256);
        for kernels in tiers() {
            let cache = Cache::new(&world, &kernels, 0, placement);
            let q: Vec<f32> = ends.iter().flat_map(|end| world.q(end - 1)).collect();
            let mut out = vec![f32::NAN; q.len()];
            let rows: Vec<usize> = (0..ends.len()).rev().collect();
            for kv_head in 0..world.shape.num_kv_heads {
                cache.with_task(kv_head, &q, &mut out, 256 * num_chunks - 1, |all| {
                    let one = AttentionTask { num_queries: 1, ..*all };
                    let mut partials = vec![f32::NAN; (num_chunks * ends.len() + behind) * one.partial_len()];
                    let each = partials[behind * one.partial_len()..].chunks_mut(all.partial_len()).enumerate();
                    let shared = AttentionTask { q_rows: Some(&rows), ..*all };
                    for (chunk, partial) in each {
                        // SAFETY: the task's pointers are to this cache and to vectors of its shape.
                        unsafe { kernels.attention_partial(&shared, chunk, partial, &mut Vec::new()) };
                    }
                    for (member, &row) in rows.iter().enumerate() {
                        let rows: Vec<usize> = (0..num_chunks).map(|chunk| chunk * ends.len() + member).collect();
                        let task = AttentionTask {
                            start: ends[row] - 1,
                            q: one.q.wrapping_add(row * one.q_stride),
                            out: one.out.wrapping_add(row * one.out_stride),
                            prefix: Some(Prefix { partials: partials.as_ptr(), rows: &rows, behind }),
                            ..one
                        };
                        // SAFETY: as above, and the partials are those of its first chunks.
                        unsafe { kernels.attention(&task, &mut Vec::new()) };
                    }
                });
            }
            let alone: Vec<f32> = ends.iter().flat_map(|end| cache.attend(&kernels, end - 1, *end, 1)).collect();
            prop_assert_eq!(bits(&alone), bits(&out), "{}", kernels.isa());
        }
    }

    /// A later position may hold anything, NaN included, even where both lie in one pair, block and task.
    #[test]
    fn later_positions_have_no_influence(world in world(), num_later in 1usize..20, placement: u64) {
        let start = last_queries(&world, num_later + 8);
        let end = last_queries(&world, num_later);
        let per_query = world.kv_dim() * world.group;
        for kernels in tiers() {
            let mut cache = Cache::new(&world, &kernels, start, placement);
            let before = cache.attend(&kernels, start, world.len, world.len);
            let nan = vec![f32::NAN; world.kv_dim()];
            (end..world.len).for_each(|position| cache.store(&kernels, position, &nan, &nan));
            let after = cache.attend(&kernels, start, world.len, world.len);
            let (earlier, later) = ((end - start) * per_query, end.saturating_sub(start) * per_query);
            prop_assert_eq!(bits(&before[..earlier]), bits(&after[..earlier]));
            let seen = if world.shape.dtype == KvDtype::Fp8 { f32::is_finite } else { f32::is_nan };
            prop_assert!(after[later..].iter().all(|&x| seen(x)), "a query that sees NaN gives NaN where the cache has it");
        }
    }

    #[test]
    fn vector_tiers_agree_bit_for_bit(world in world(), num_queries in 1usize..40, placement: u64) {
        let start = last_queries(&world, num_queries);
        let run = |isa| Kernels::new(Some(isa)).ok().map(|kernels| {
            bits(&Cache::new(&world, &kernels, start, placement).attend(&kernels, start, world.len, world.len))
        });
        if let (Some(avx2), Some(avx512)) = (run(Isa::Avx2), run(Isa::Avx512)) {
            prop_assert_eq!(avx2, avx512);
        }
    }
}

/// What a query finds that sees one position: its values, every number of E4M3 (whose NaN are stored as the greatest).
#[test]
fn a_position_alone_gives_its_values_back() {
    let size = |code: u32| match code >> 3 {
        0 => code as f32 / 512.0,
        exponent => (8 + code % 8) as f32 * 2f32.powi(exponent as i32 - 10),
    };
    let numbers: Vec<f32> = (0..127).flat_map(|code| [size(code), -size(code)]).chain([448.0, -448.0]).collect();
    for (kernels, dtype) in tiers().into_iter().flat_map(|kernels| DTYPES.map(|dtype| (kernels, dtype))) {
        let shape = KvShape { dtype, num_kv_heads: 1, head_dim: 256 };
        let world = World { shape, group: 2, len: 2, window: Some(1), softcap: None, seed: 1 };
        let mut cache = Cache::new(&world, &kernels, 0, 5);
        for position in 0..2 {
            cache.store(&kernels, position, &world.k(position), &numbers);
        }
        let out = cache.attend(&kernels, 0, 2, 2);
        for (got, want) in out.iter().zip(numbers.iter().cycle()) {
            // Its weight is one, and a rounding away from it.
            let bound = if dtype == KvDtype::Int8 { 448.0 / 127.0 * 0.51 } else { want.abs() * 1e-6 };
            assert!((got - want).abs() <= bound, "{dtype:?} in {}: {got} is not {want}", kernels.isa());
        }
    }
}

/// Chunks of a long context over several lanes.
#[test]
fn lanes_that_share_a_sequence_give_the_same_bits() {
    for dtype in DTYPES {
        share_a_sequence(KvShape { dtype, num_kv_heads: 2, head_dim: 64 });
    }
}

fn share_a_sequence(shape: KvShape) {
    let world = World { shape, group: 3, len: 2_100, window: None, softcap: None, seed: 7 };
    let kernels = Kernels::new(None).expect("some tier exists");
    let cache = Cache::new(&world, &kernels, world.len - 1, 3);
    let alone = cache.attend(&kernels, world.len - 1, world.len, 1);

    let q = world.q(world.len - 1);
    let mut out = vec![f32::NAN; q.len()];
    let partials: Vec<_> = (0..world.len.div_ceil(256)).map(|_| Mutex::new(Vec::new())).collect();
    let job = |lane: Lane<'_>| {
        cache.with_task(1, &q, &mut vec![0.0; q.len()], world.len - 1, |task| {
            for chunk in lane.share(partials.len()) {
                let mut partial = vec![f32::NAN; task.partial_len()];
                // SAFETY: the task's pointers are to the cache and to vectors of its shape.
                unsafe { kernels.attention_partial(task, chunk, &mut partial, &mut Vec::new()) };
                *partials[chunk].lock().expect("no lane panics") = partial;
            }
        });
    };
    Pool::new(2).run(&job).expect("no lane panics");
    let mut partials: Vec<f32> = partials.into_iter().flat_map(|p| p.into_inner().expect("no lane panics")).collect();
    cache.with_task(1, &q, &mut out, world.len - 1, |task| {
        // SAFETY: as above.
        unsafe { kernels.attention_merge(task, &mut partials) };
    });
    let head = 3 * 64;
    assert_eq!(bits(&out[head..]), bits(&alone[head..]));
    assert!(out[..head].iter().all(|x| x.is_nan()), "the other head's outputs are not touched");
}

#[test]
fn infinite_scores_do_not_crash() {
    for (kernels, dtype) in tiers().into_iter().flat_map(|kernels| DTYPES.map(|dtype| (kernels, dtype))) {
        let shape = KvShape { dtype, num_kv_heads: 1, head_dim: 64 };
        let world = World { shape, group: 2, len: 40, window: None, softcap: None, seed: 1 };
        let mut cache = Cache::new(&world, &kernels, 0, 5);
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            cache.store(&kernels, 20, &[x; 64], &[x; 64]);
            let out = cache.attend(&kernels, 0, world.len, 40);
            assert!(out[..20 * 128].iter().all(|x| x.is_finite()));
        }
    }
}
