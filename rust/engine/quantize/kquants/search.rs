//! The line of a group with the least squared error that was found: least squares for the codes of many first guesses,
//! then codes and line in turn until neither changes.

use super::group::{Group, Inverse, Levels, Line, Offset, Sums};

/// By how many levels a first guess stretches the group's range over more, or fewer, than there are: where it has more,
/// what lies at the ends is clipped.
const STRETCHES: [f32; 26] = [
    -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    1.25, 1.5, 2.0, 3.0, 4.0,
];
/// Rounds in which codes follow the line and the line the codes; most groups come to rest after two or three.
const MAX_ROUNDS: usize = 8;

/// What codes and line mean for a type.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub levels: Levels,
    pub offset: Offset,
}

impl Form {
    /// The line with the least error that was found.
    pub fn fit<const N: usize>(self, group: Group<'_, N>) -> Line {
        let moments = group.moments();
        let mut best = Best { line: self.nearest_line(group), error: f32::INFINITY };
        self.for_each_guess(group, |guess| {
            best.meet(self.improved(&group, moments, guess));
        });
        for _ in 0..MAX_ROUNDS {
            if !best.meet(self.improved(&group, moments, best.line.inverse())) {
                break;
            }
        }
        match self.offset {
            Offset::NotPositive => self.lowered(group, best.line),
            _ => best.line,
        }
    }

    /// The same codes and line, shifted so that the lowest level is used: the smaller an offset, the finer the units that a
    /// block's offsets share.
    fn lowered<const N: usize>(self, group: Group<'_, N>, line: Line) -> Line {
        let unused = f32::from(group.codes(line, self.levels).into_iter().fold(i8::MAX, i8::min)) - self.levels.lo;
        Line { offset: (line.offset + unused * line.scale).min(0.0), ..line }
    }

    /// The line that stretches the group's range over the levels: what rounding to nearest uses.
    pub fn nearest_line<const N: usize>(self, group: Group<'_, N>) -> Line {
        let (least, greatest) = self.range(group);
        match self.offset {
            Offset::None => {
                let extreme = if -least > greatest { least } else { greatest };
                Line { scale: extreme / self.levels.lo, offset: 0.0 }
            }
            _ => Line { scale: (greatest - least) / (self.levels.hi - self.levels.lo), offset: least },
        }
    }

    /// The least error that the codes of a guess allow, and its line.
    #[inline(always)]
    fn improved<const N: usize>(self, group: &Group<'_, N>, moments: Sums, guess: Inverse) -> Option<Best> {
        let sums = group.with_codes(moments, guess, self.levels);
        let line = sums.best_line(self.offset)?;
        Some(Best { line, error: sums.error(line) })
    }

    #[inline(always)]
    fn for_each_guess<const N: usize>(self, group: Group<'_, N>, mut meet: impl FnMut(Inverse)) {
        let (least, greatest) = self.range(group);
        let Levels { lo, hi } = self.levels;
        for stretch in STRETCHES {
            if self.offset == Offset::None {
                let factor = (stretch - lo) / greatest.max(-least);
                // Codes reach one further down than up, so the sign of the scale matters.
                [factor, -factor].into_iter().for_each(|factor| meet(Inverse { factor, shift: 0.0 }));
                continue;
            }
            let factor = (hi - lo + stretch) / (greatest - least);
            let (from_below, from_above) = (lo - least * factor, hi - greatest * factor);
            let shifts = [from_below, 0.5 * (from_below + from_above), from_above];
            shifts.into_iter().for_each(|shift| meet(Inverse { factor, shift }));
        }
    }

    fn range<const N: usize>(self, group: Group<'_, N>) -> (f32, f32) {
        let (least, greatest) = group.range();
        match self.offset {
            Offset::NotPositive => (least.min(0.0), greatest),
            _ => (least, greatest),
        }
    }
}

struct Best {
    line: Line,
    error: f32,
}

impl Best {
    /// Keeps the better of both; whether that is the other one.
    #[inline(always)]
    fn meet(&mut self, other: Option<Self>) -> bool {
        match other {
            Some(other) if other.error < self.error => {
                *self = other;
                true
            }
            _ => false,
        }
    }
}
