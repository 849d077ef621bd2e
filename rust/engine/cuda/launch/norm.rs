//! RMS norms of the residual stream.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// normed[r] = rms_norm(residual[rows[r]]) * weight.
pub struct RmsNorm<'a> {
    /// (num_tokens, hidden_size)
    pub residual: DeviceSlice<'a, f32>,
    /// (num_rows,). None: every row.
    pub rows: Option<DeviceSlice<'a, i32>>,
    /// (hidden_size,)
    pub weight: DeviceSlice<'a, f32>,
    /// (num_rows, hidden_size)
    pub normed: DeviceSlice<'a, bf16>,
    pub eps: f32,
}

impl Call for RmsNorm<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::RmsNorm
    }

    fn shape(&self) -> LaunchShape {
        norm_shape(self.normed.len() / self.weight.len(), self.weight.len())
    }

    fn args(&self) -> Args {
        let hidden_size = self.weight.len();
        let num_rows = self.rows.map_or(self.residual.len() / hidden_size, |rows| rows.len());
        assert_eq!(self.residual.len() % hidden_size, 0);
        assert_eq!(self.normed.len(), num_rows * hidden_size);
        [
            self.residual.into(),
            self.rows.into(),
            self.weight.into(),
            self.normed.into(),
            hidden_size.into(),
            self.eps.into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        let numbers = self.normed.len();
        words(numbers + self.weight.len() + self.rows.map_or(0, |rows| rows.len())) + halves(numbers)
    }
}

/// residual += projected (or its norm); normed = rms_norm(residual) * next.
pub struct AddRmsNorm<'a> {
    /// (num_tokens, hidden_size)
    pub residual: DeviceSlice<'a, f32>,
    /// (num_tokens, hidden_size)
    pub projected: DeviceSlice<'a, bf16>,
    /// (hidden_size,). None: added as it is.
    pub post: Option<DeviceSlice<'a, f32>>,
    /// The weight, (hidden_size,), and the output, (num_tokens, hidden_size). None: only added.
    pub next: Option<(DeviceSlice<'a, f32>, DeviceSlice<'a, bf16>)>,
    pub hidden_size: usize,
    pub eps: f32,
}

impl Call for AddRmsNorm<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::AddRmsNorm
    }

    fn shape(&self) -> LaunchShape {
        norm_shape(self.residual.len() / self.hidden_size, self.hidden_size)
    }

    fn args(&self) -> Args {
        assert_eq!(self.residual.len() % self.hidden_size, 0);
        assert_eq!(self.projected.len(), self.residual.len());
        assert!(self.post.is_none_or(|post| post.len() == self.hidden_size));
        let (weight, normed) = self.next.unzip();
        assert!(weight.is_none_or(|weight| weight.len() == self.hidden_size));
        assert!(normed.is_none_or(|normed| normed.len() == self.residual.len()));
        [
            self.residual.into(),
            self.projected.into(),
            self.post.into(),
            weight.into(),
            normed.into(),
            self.hidden_size.into(),
            self.eps.into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        let numbers = self.residual.len();
        let weights = usize::from(self.post.is_some()) + usize::from(self.next.is_some());
        let normed = if self.next.is_some() { halves(numbers) } else { 0 };
        2 * words(numbers) + halves(numbers) + normed + words(weights * self.hidden_size)
    }
}

/// A block per row.
fn norm_shape(num_rows: usize, hidden_size: usize) -> LaunchShape {
    blocks([num_rows, 1, 1], if hidden_size <= 4096 { 256 } else { 1024 })
}
