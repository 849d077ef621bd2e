//! A set of packed matrices that read one input.

use std::ops::Range;

use crate::backend::Act;
use crate::backend::profiled::Weights;
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

    /// Whether a matrix's rows have one scale each, so that its input is int8 in wide groups.
    pub fn wants_wide(&self) -> bool {
        self.segments.iter().any(|segment| segment.matrix.layout() == Layout::I8Row)
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
