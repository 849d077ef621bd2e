//! K types: sub-blocks whose scales, and minima, are small whole numbers, times two float16 of the block.

use super::group::{Group, Line, Sums};
use super::scaled::Scaled;
use super::search::Form;
use crate::quant::blocks::Half;

/// Rounds in which the block's two numbers follow what sub-blocks chose, and these choose again.
const MAX_ROUNDS: usize = 3;
/// How many scale codes a sub-block tries on each side of the best one without rounding.
const REACH: i32 = 1;

/// A K type: `SUBS` sub-blocks of `N` numbers.
#[derive(Debug, Clone, Copy)]
pub struct SuperForm<const N: usize, const SUBS: usize> {
    pub form: Form,
    pub least_scale: i8,
    pub greatest_scale: i8,
}

/// An encoded block: x = (d scale) q - (dmin min).
#[derive(Debug)]
pub struct SuperBlock<const N: usize, const SUBS: usize> {
    pub d: Half,
    pub dmin: Half,
    pub scales: [i8; SUBS],
    pub mins: [i8; SUBS],
    pub codes: [[i8; N]; SUBS],
}

/// The block's two numbers, as float16 has them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Units {
    d: f32,
    dmin: f32,
}

/// What a sub-block chose.
#[derive(Debug, Clone, Copy)]
struct Choice {
    scale: i8,
    min: i8,
    sums: Sums,
    error: f32,
}

struct Solution<const SUBS: usize> {
    units: Units,
    choices: [Choice; SUBS],
}

impl Units {
    fn line(self, scale: i8, min: i8) -> Line {
        Line { scale: self.d * f32::from(scale), offset: -self.dmin * f32::from(min) }
    }
}

impl<const SUBS: usize> Solution<SUBS> {
    fn error(&self) -> f32 {
        self.choices.iter().map(|choice| choice.error).sum()
    }

    /// The two numbers with the least error for all codes.
    fn best_units(&self) -> Option<Units> {
        let [mut qq, mut qm, mut mm, mut xq, mut xm] = [0.0; 5];
        for Choice { scale, min, sums, .. } in self.choices {
            let (scale, min) = (f32::from(scale), f32::from(min));
            qq += scale * scale * sums.qq;
            qm += scale * min * sums.q;
            mm += min * min * sums.w;
            xq += scale * sums.xq;
            xm += min * sums.x;
        }
        let determinant = qq * mm - qm * qm;
        let both = Units { d: (xq * mm - qm * xm) / determinant, dmin: (qm * xq - qq * xm) / determinant };
        if determinant > 1e-6 * qq * mm && both.dmin > 0.0 {
            return Some(both);
        }
        (qq > 0.0).then(|| Units { d: xq / qq, dmin: 0.0 })
    }
}

impl<const N: usize, const SUBS: usize> SuperForm<N, SUBS> {
    pub fn encode<const LEN: usize>(&self, block: &Scaled<LEN>) -> SuperBlock<N, SUBS> {
        let lines = std::array::from_fn(|i| self.form.fit(block.group::<N>(i)));
        let mut best = self.choose(block, &lines, self.first_units(block, &lines));
        for _ in 0..MAX_ROUNDS {
            let units = best.best_units().map(|units| rounded(block, units));
            let Some(units) = units.filter(|&units| units != best.units) else { break };
            let next = self.choose(block, &lines, units);
            if next.error() >= best.error() {
                break;
            }
            best = next;
        }
        let nearest = self.nearest(block);
        self.finish(block, if nearest.error() < best.error() { nearest } else { best })
    }

    /// Everything rounded to nearest.
    pub fn encode_nearest<const LEN: usize>(&self, block: &Scaled<LEN>) -> SuperBlock<N, SUBS> {
        self.finish(block, self.nearest(block))
    }

    /// Those with which the greatest scale and minimum have the greatest codes.
    fn first_units<const LEN: usize>(&self, block: &Scaled<LEN>, lines: &[Line; SUBS]) -> Units {
        let scales = lines.iter().map(|line| line.scale);
        let extreme = scales.fold(0.0, |extreme: f32, scale| if scale.abs() > extreme.abs() { scale } else { extreme });
        let deepest = lines.iter().fold(0.0, |deepest: f32, line| deepest.min(line.offset));
        let limit = if self.least_scale < 0 { self.least_scale } else { self.greatest_scale };
        let units = Units { d: extreme / f32::from(limit), dmin: -deepest / f32::from(self.greatest_scale) };
        rounded(block, units)
    }

    fn choose<const LEN: usize>(&self, block: &Scaled<LEN>, lines: &[Line; SUBS], units: Units) -> Solution<SUBS> {
        let choices = std::array::from_fn(|i| self.choose_codes(block.group(i), lines[i], units));
        Solution { units, choices }
    }

    /// Scale and minimum of a sub-block near the line that it would have without rounding.
    fn choose_codes(&self, group: Group<'_, N>, line: Line, units: Units) -> Choice {
        let moments = group.moments();
        let nearest = self.scale_code(line.scale, units);
        let reach =
            |by: i32| (i32::from(nearest) + by).clamp(self.least_scale.into(), self.greatest_scale.into()) as i8;
        let mut best = self.choice(group, moments, units, nearest, self.min_code(line.offset, units));
        for scale in (-REACH..=REACH).map(reach) {
            let mut min = self.min_code(line.offset, units);
            loop {
                let choice = self.choice(group, moments, units, scale, min);
                let better = self.best_min(&choice.sums, units, scale);
                let is_better = choice.error < best.error;
                if is_better {
                    best = choice;
                }
                if better == min || !is_better {
                    break;
                }
                min = better;
            }
        }
        best
    }

    /// With the codes nearest to a line.
    fn choice(&self, group: Group<'_, N>, moments: Sums, units: Units, scale: i8, min: i8) -> Choice {
        let line = units.line(scale, min);
        let sums = group.with_codes(moments, line.inverse(), self.form.levels);
        Choice { scale, min, sums, error: sums.error(line) }
    }

    fn scale_code(&self, scale: f32, units: Units) -> i8 {
        let code = if units.d == 0.0 { 0.0 } else { scale / units.d };
        (code.round() as i8).clamp(self.least_scale, self.greatest_scale)
    }

    fn min_code(&self, offset: f32, units: Units) -> i8 {
        let code = if units.dmin == 0.0 { 0.0 } else { -offset / units.dmin };
        (code.round() as i8).clamp(0, self.greatest_scale)
    }

    /// The minimum with the least error for these codes and this scale.
    fn best_min(&self, sums: &Sums, units: Units, scale: i8) -> i8 {
        self.min_code((sums.x - units.d * f32::from(scale) * sums.q) / sums.w, units)
    }

    /// What rounding everything to nearest gives, from the greatest scale on.
    fn nearest<const LEN: usize>(&self, block: &Scaled<LEN>) -> Solution<SUBS> {
        let lines = std::array::from_fn(|i| self.form.nearest_line(block.group::<N>(i)));
        let units = self.first_units(block, &lines);
        let choices = std::array::from_fn(|i| {
            let group = block.group(i);
            let (scale, min) = (self.scale_code(lines[i].scale, units), self.min_code(lines[i].offset, units));
            self.choice(group, group.moments(), units, scale, min)
        });
        Solution { units, choices }
    }

    fn finish<const LEN: usize>(&self, block: &Scaled<LEN>, solution: Solution<SUBS>) -> SuperBlock<N, SUBS> {
        let Solution { units, choices } = solution;
        let codes = |i: usize| block.group(i).codes(units.line(choices[i].scale, choices[i].min), self.form.levels);
        SuperBlock {
            d: block.half(units.d),
            dmin: block.half(units.dmin),
            scales: choices.map(|choice| choice.scale),
            mins: choices.map(|choice| choice.min),
            codes: std::array::from_fn(codes),
        }
    }
}

fn rounded<const LEN: usize>(block: &Scaled<LEN>, units: Units) -> Units {
    Units { d: block.rounded(units.d), dmin: block.rounded(units.dmin) }
}
