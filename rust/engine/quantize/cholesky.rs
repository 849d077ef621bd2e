//! How rounding errors of earlier columns are made up for by later ones.
//!
//! With the Hessian H = (U + I) D (U + I)ᵀ, U strictly upper triangular, the best change of column k, given the
//! errors E of the columns before it, is E · U[.., k] (Chee et al. 2023, arXiv 2307.13304, prove it equal to GPTQ's
//! updates by the Cholesky factor of the inverse). So no inverse is needed: U is the Cholesky factor of H with rows
//! and columns in reverse, reversed back, each column divided by its diagonal.

use super::compute::Compute;
use crate::error::{Error, Result};

/// Columns that are factored together.
const BLOCK: usize = 128;

/// (n, n): above the diagonal U, at and below it nothing that may be read. `hessian` has its lower triangle; its columns
/// are taken in `order`, and `damping` is added to its diagonal, more where that leaves it indefinite.
pub fn feedback(compute: &Compute<'_>, hessian: &[f32], order: &[usize], damping: f32) -> Result<Vec<f32>> {
    const ATTEMPTS: i32 = 4;
    for attempt in 0..ATTEMPTS {
        let mut factor = reversed(compute, hessian, order, damping * 10f32.powi(attempt));
        if factorize(compute, &mut factor, order.len())? {
            factor.reverse();
            divide_columns(&mut factor, order.len());
            return Ok(factor);
        }
    }
    Err(Error::InvalidRequest("the calibration text gives inputs that are no finite numbers".into()))
}

/// Rows and columns in the reverse of `order`.
fn reversed(compute: &Compute<'_>, hessian: &[f32], order: &[usize], damping: f32) -> Vec<f32> {
    let n = order.len();
    let mut out = vec![0.0; n * n];
    compute.rows(&mut out, n, |i, row| {
        let a = order[n - 1 - i];
        for (x, &b) in row[..=i].iter_mut().zip(order.iter().rev()) {
            *x = hessian[a.max(b) * n + a.min(b)];
        }
        row[i] += damping;
    });
    out
}

/// The lower Cholesky factor in place, block column by block column. False: not positive definite.
fn factorize(compute: &Compute<'_>, a: &mut [f32], n: usize) -> Result<bool> {
    for first in (0..n).step_by(BLOCK) {
        let end = n.min(first + BLOCK);
        if first > 0 {
            subtract_earlier(compute, a, n, first, end)?;
        }
        let Some(inverse) = factorize_block(a, n, first, end) else { return Ok(false) };
        if end < n {
            solve_below(compute, a, n, first, end, &inverse)?;
        }
    }
    Ok(true)
}

/// Columns first..end, from row `first` on, less what the columns before them explain.
fn subtract_earlier(compute: &Compute<'_>, a: &mut [f32], n: usize, first: usize, end: usize) -> Result<()> {
    let mut left = vec![0.0; (n - first) * first];
    compute.rows(&mut left, first, |i, row| row.copy_from_slice(&a[(first + i) * n..][..first]));
    let own = compute.pack(end - first, first, &|row| &left[row * first..][..first])?;
    let explained = compute.product(&left, &own)?;
    let stride = explained.len() / (n - first);
    compute.rows(&mut a[first * n..], n, |i, row| {
        row[first..end].iter_mut().zip(&explained[i * stride..]).for_each(|(x, e)| *x -= e);
    });
    Ok(())
}

/// Factors the block on the diagonal in place and returns its inverse, (width, width) lower triangular.
fn factorize_block(a: &mut [f32], n: usize, first: usize, end: usize) -> Option<Vec<f32>> {
    let width = end - first;
    let mut l = vec![0.0f64; width * width];
    for i in 0..width {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * width + k] * l[j * width + k]).sum();
            let rest = f64::from(a[(first + i) * n + first + j]) - dot;
            l[i * width + j] = match i == j {
                true if rest.is_finite() && rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / l[j * width + j],
            };
            a[(first + i) * n + first + j] = l[i * width + j] as f32;
        }
    }
    Some(invert_lower(&l, width))
}

fn invert_lower(l: &[f64], n: usize) -> Vec<f32> {
    let mut inverse = vec![0.0f64; n * n];
    for col in 0..n {
        inverse[col * n + col] = 1.0 / l[col * n + col];
        for i in col + 1..n {
            let dot: f64 = (col..i).map(|k| l[i * n + k] * inverse[k * n + col]).sum();
            inverse[i * n + col] = -dot / l[i * n + i];
        }
    }
    inverse.into_iter().map(|x| x as f32).collect()
}

/// Columns first..end of the rows below the block: times the inverse of the block's transpose.
fn solve_below(
    compute: &Compute<'_>,
    a: &mut [f32],
    n: usize,
    first: usize,
    end: usize,
    inverse: &[f32],
) -> Result<()> {
    let width = end - first;
    let mut below = vec![0.0; (n - end) * width];
    compute.rows(&mut below, width, |i, row| row.copy_from_slice(&a[(end + i) * n + first..][..width]));
    let solved = compute.product(&below, &compute.pack(width, width, &|row| &inverse[row * width..][..width])?)?;
    let stride = solved.len() / (n - end);
    compute.rows(&mut a[end * n..], n, |i, row| row[first..end].copy_from_slice(&solved[i * stride..][..width]));
    Ok(())
}

fn divide_columns(factor: &mut [f32], n: usize) {
    let inverse: Vec<f32> = (0..n).map(|k| 1.0 / factor[k * n + k]).collect();
    for (j, row) in factor.chunks_exact_mut(n).enumerate() {
        row[j..].iter_mut().zip(&inverse[j..]).for_each(|(x, inverse)| *x *= inverse);
    }
}
