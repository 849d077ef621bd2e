//! CPU kernels in three tiers. `scalar` is the specification; the tier is chosen once, at start.
//!
//! Every kernel accumulates an output element in one fixed order within a tier, whatever the number of
//! rows, the tile, the range of panels or the lane: results do not depend on company.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod elementwise;
pub mod limits;
mod matmul;
mod memory;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod simd;
pub mod threads;

pub use attention::{AttentionTask, BLOCK_SIZE, KvLayer, KvShape, NextRead, Prefix, partial_len};
pub(crate) use matmul::{BLOCK_ROWS, blocks, cached_rows};
pub use matmul::{Bf16Rows, MatMut, OutlierRows, Outliers, QuantizedRows};
pub(crate) use memory::{Cells, on_lines};

use crate::config::Isa;
use crate::error::{Error, Result};

/// Calls a tier's function of this name: `dispatch!(kernels, elementwise::add(x, y))`.
macro_rules! dispatch {
    ($kernels:expr, $module:ident :: $function:ident ($($argument:expr),* $(,)?)) => {
        match $kernels.isa() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernels` of this tier exist only on machines that have it.
            crate::config::Isa::Avx512 | crate::config::Isa::Avx512Bf16 => unsafe { crate::kernels::avx512::$module::$function($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernels` of this tier exist only on machines that have it.
            crate::config::Isa::Avx2 => unsafe { crate::kernels::avx2::$module::$function($($argument),*) },
            // SAFETY: where the function is unsafe, the caller's promises are its own.
            #[allow(unused_unsafe)]
            _ => unsafe { crate::kernels::scalar::$module::$function($($argument),*) },
        }
    };
}
use dispatch;

/// The kernels of one tier. A value of this type is the proof that the machine has the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The best tier of this machine, or the one asked for; refused if the machine lacks it.
    pub fn new(wanted: Option<Isa>) -> Result<Self> {
        let best = best_isa();
        match wanted {
            Some(isa) if isa > best => Err(Error::InvalidConfig(format!(
                "the '{isa}' kernels need instructions that this CPU lacks: its best tier is '{best}'"
            ))),
            _ => Ok(Self { isa: wanted.unwrap_or(best) }),
        }
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }
}

#[cfg(target_arch = "x86_64")]
fn best_isa() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni");
    match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
        (true, true, true) => Isa::Avx512Bf16,
        (true, true, false) => Isa::Avx512,
        (true, false, _) => Isa::Avx2,
        _ => Isa::Scalar,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best_isa() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_up_to_the_best_is_granted_and_none_above() {
        let best = best_isa();
        assert_eq!(Kernels::new(None).unwrap().isa(), best);
        for isa in [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16] {
            assert_eq!(Kernels::new(Some(isa)).is_ok(), isa <= best, "{isa}");
        }
    }
}
