//! A decoder as plain as can be: one sequence, float32, no cache. It needs only what the loaders give.

use ferrule_engine::model::{Activation, ModelConfig, Role, RopeTable, Source};
use ferrule_engine::quant::dequantize;

/// A matrix (rows, cols) of a role.
struct Matrix {
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn load(source: &Source, role: Role) -> Self {
        let part = source.part(role).unwrap();
        let view = source.checkpoint.tensor(&part.name).unwrap();
        let cols = view.shape[1];
        let mut all = vec![0.0; view.shape.iter().product()];
        dequantize(view.dtype, &view.bytes, &mut all);
        let rows = (0..part.rows).map(|row| (part.row_of)(row));
        Self { cols, values: rows.flat_map(|row| all[row * cols..][..cols].to_vec()).collect() }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// x (n, cols) times the transpose.
    fn apply(&self, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
        x.iter().map(|x| self.values.chunks(self.cols).map(|row| dot(row, x)).collect()).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean = dot(x, x) / x.len() as f32;
    x.iter().zip(weight).map(|(x, w)| x / (mean + eps).sqrt() * w).collect()
}

fn norms(source: &Source, role: Role, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let weight = source.vector(role).unwrap();
    x.iter().map(|x| norm(x, &weight, source.config.norm_eps)).collect()
}

fn add(x: &mut [Vec<f32>], y: &[Vec<f32>]) {
    x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
}

fn softcap(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// Logits of every position, (n, vocab_size).
pub fn logits(source: &Source, ids: &[usize]) -> Vec<Vec<f32>> {
    let config = &source.config;
    let embedding = Matrix::load(source, Role::Embedding);
    let scale = config.embedding_scale.unwrap_or(1.0);
    let mut x: Vec<Vec<f32>> = ids.iter().map(|&id| embedding.row(id).iter().map(|v| v * scale).collect()).collect();
    for layer in 0..config.num_layers() {
        let mut y = attention(source, layer, &norms(source, Role::AttnNorm(layer), &x));
        if config.post_norms {
            y = norms(source, Role::AttnPostNorm(layer), &y);
        }
        add(&mut x, &y);
        let mut y = feed_forward(source, layer, &norms(source, Role::FfnNorm(layer), &x));
        if config.post_norms {
            y = norms(source, Role::FfnPostNorm(layer), &y);
        }
        add(&mut x, &y);
    }
    let head = if config.tie_embeddings { embedding } else { Matrix::load(source, Role::Head) };
    let mut logits = head.apply(&norms(source, Role::FinalNorm, &x));
    logits.iter_mut().flatten().for_each(|logit| *logit = softcap(*logit, config.final_softcap));
    logits
}

fn feed_forward(source: &Source, layer: usize, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut gate = Matrix::load(source, Role::Gate(layer)).apply(x);
    let up = Matrix::load(source, Role::Up(layer)).apply(x);
    for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
        *gate = up
            * match source.config.activation {
                Activation::Silu => *gate / (1.0 + (-*gate).exp()),
                Activation::GeluTanh => {
                    let inner = (2.0 / std::f32::consts::PI).sqrt() * (*gate + 0.044715 * gate.powi(3));
                    0.5 * *gate * (1.0 + inner.tanh())
                }
            };
    }
    Matrix::load(source, Role::Down(layer)).apply(&gate)
}

/// Queries or keys after bias, norm and rotation.
fn rotated(source: &Source, layer: usize, x: &[Vec<f32>], roles: [Role; 3]) -> Vec<Vec<f32>> {
    let config = &source.config;
    let table = RopeTable::new(&config.ropes[config.layers[layer].rope]);
    let mut rows = projected(source, x, roles[0], roles[1]);
    let weight = config.qk_norm.then(|| source.vector(roles[2]).unwrap());
    for (position, row) in rows.iter_mut().enumerate() {
        for head in row.chunks_mut(config.head_dim) {
            if let Some(weight) = &weight {
                head.copy_from_slice(&norm(head, weight, config.norm_eps));
            }
            rotate(&table, position, head);
        }
    }
    rows
}

fn projected(source: &Source, x: &[Vec<f32>], weight: Role, bias: Role) -> Vec<Vec<f32>> {
    let mut rows = Matrix::load(source, weight).apply(x);
    if source.config.qkv_bias {
        let bias = source.vector(bias).unwrap();
        rows.iter_mut().for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, b)| *x += b));
    }
    rows
}

fn rotate(table: &RopeTable, position: usize, head: &mut [f32]) {
    let half = table.inv_freq.len();
    let (mut cos, mut sin) = (vec![0.0; half], vec![0.0; half]);
    table.fill(position, &mut cos, &mut sin);
    for i in 0..half {
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
    }
}

fn attention(source: &Source, layer: usize, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let config = &source.config;
    let q = rotated(source, layer, x, [Role::Query(layer), Role::QueryBias(layer), Role::QueryNorm(layer)]);
    let k = rotated(source, layer, x, [Role::Key(layer), Role::KeyBias(layer), Role::KeyNorm(layer)]);
    let v = projected(source, x, Role::Value(layer), Role::ValueBias(layer));
    let mixed: Vec<Vec<f32>> = (0..x.len())
        .map(|at| (0..config.num_heads).flat_map(|head| attend(config, layer, at, head, [&q, &k, &v])).collect())
        .collect();
    Matrix::load(source, Role::AttnOutput(layer)).apply(&mixed)
}

fn attend(config: &ModelConfig, layer: usize, at: usize, head: usize, [q, k, v]: [&[Vec<f32>]; 3]) -> Vec<f32> {
    let dim = config.head_dim;
    let kv_head = head / (config.num_heads / config.num_kv_heads);
    let first = config.layers[layer].window.map_or(0, |window| (at + 1).saturating_sub(window));
    let query = &q[at][head * dim..][..dim];
    let score = |seen: usize| dot(query, &k[seen][kv_head * dim..][..dim]) * config.attention_scale;
    let scores: Vec<f32> = (first..=at).map(|seen| softcap(score(seen), config.attention_softcap)).collect();
    let highest = scores.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - highest).exp()).collect();
    let total: f32 = weights.iter().sum();
    let value = |d: usize| (first..=at).zip(&weights).map(|(seen, w)| w * v[seen][kv_head * dim + d]).sum::<f32>();
    (0..dim).map(|d| value(d) / total).collect()
}
