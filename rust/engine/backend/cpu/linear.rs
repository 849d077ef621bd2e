//! A set of packed matrices that read one input.

use std::ops::Range;

use crate::backend::Act;
use crate::backend::profiled::Weights;
use crate::config::Activations;
use crate::kernels::Kernels;
use crate::quant::{Layout, PackedMatrix};

/// A matrix and the place of its outputs.
#[derive(Debug)]
pub struct Segment {
    pub matrix: PackedMatrix,
    pub output: Act,
    /// First output column.
    pub col: usize,
    /// Which of the linear's orders its columns have. None: the input's own.
    pub order: Option<usize>,
}

/// Forms in which matrices read an input.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forms {
    pub float32: bool,
    pub int8: bool,
    /// Int8 groups are wide, because a matrix is `Layout::I8Row`.
    pub wide: bool,
    pub bf16: bool,
}

impl Forms {
    pub const FLOAT32: Self = Self { float32: true, int8: false, wide: false, bf16: false };

    /// That of one matrix: bf16 takes the kernels that multiply it, float32 takes its place where there are none.
    fn of(layout: Layout, activations: Activations, kernels: Kernels) -> Self {
        let int8 = activations == Activations::Int8 && layout.is_quantized();
        let bf16 = !int8 && activations != Activations::F32 && layout.takes_bf16() && kernels.multiplies_bf16();
        Self { float32: !int8 && !bf16, int8, wide: int8 && layout == Layout::I8Row, bf16 }
    }

    pub fn or(self, other: Self) -> Self {
        Self {
            float32: self.float32 || other.float32,
            int8: self.int8 || other.int8,
            wide: self.wide || other.wide,
            bf16: self.bf16 || other.bf16,
        }
    }
}

/// Matrices over the same columns whose panels are shared out as one list.
#[derive(Debug)]
pub struct CpuLinear {
    pub segments: Vec<Segment>,
    /// (cols,) each: the input's column that a matrix's columns read. One is enough where matrices were quantized together.
    pub orders: Vec<Box<[u32]>>,
}

impl CpuLinear {
    /// For an input that comes in the order of the columns.
    pub fn in_order(mut self) -> Self {
        self.orders.clear();
        self.segments.iter_mut().for_each(|segment| segment.order = None);
        self
    }

    /// How its matrices read their input.
    pub fn forms(&self, activations: Activations, kernels: Kernels) -> Forms {
        let of = |segment: &Segment| Forms::of(segment.matrix.layout(), activations, kernels);
        self.segments.iter().map(of).fold(Forms::default(), Forms::or)
    }

    pub fn num_panels(&self) -> usize {
        self.segments.iter().map(|segment| segment.matrix.num_panels()).sum()
    }

    pub fn num_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.matrix.num_bytes()).sum()
    }

    /// The segments that the panels `share` of the common list touch, with their own panels.
    pub fn within(&self, share: Range<usize>) -> impl Iterator<Item = (&Segment, Range<usize>)> {
        let mut first = 0;
        self.segments.iter().filter_map(move |segment| {
            let begin = first;
            first += segment.matrix.num_panels();
            let panels = share.start.clamp(begin, first) - begin..share.end.clamp(begin, first) - begin;
            (!panels.is_empty()).then_some((segment, panels))
        })
    }
}

impl Weights for CpuLinear {
    fn num_bytes(&self) -> usize {
        self.num_bytes()
    }

    fn num_weights(&self) -> usize {
        self.segments.iter().map(|Segment { matrix, .. }| matrix.rows() * matrix.cols()).sum()
    }
}
