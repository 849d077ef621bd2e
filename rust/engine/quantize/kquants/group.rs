//! Numbers that share a line `scale * code + offset`, and the least squares of that line.

/// Codes are whole numbers from `lo` to `hi`.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    pub lo: f32,
    pub hi: f32,
}

impl Levels {
    pub const fn new(lo: i8, hi: i8) -> Self {
        Self { lo: lo as f32, hi: hi as f32 }
    }

    /// The nearest level. Numbers that are no numbers become the lowest.
    #[inline(always)]
    fn nearest(self, x: f32) -> f32 {
        // Where 2^23 is added, a float32 has no bits left for fractions: the sum rounds, as one instruction on any CPU.
        const ROUND: f32 = 12_582_912.0;
        let x = if x > self.lo { x } else { self.lo };
        let x = if x < self.hi { x } else { self.hi };
        (x + ROUND) - ROUND
    }
}

/// What codes stand for: `scale * code + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub scale: f32,
    pub offset: f32,
}

impl Line {
    /// Where numbers lie in units of codes.
    pub fn inverse(self) -> Inverse {
        let factor = if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale };
        match factor.is_finite() {
            true => Inverse { factor, shift: -self.offset * factor },
            false => Inverse { factor: 0.0, shift: 0.0 },
        }
    }
}

/// Number x has the code nearest to `factor * x + shift`.
#[derive(Debug, Clone, Copy)]
pub struct Inverse {
    pub factor: f32,
    pub shift: f32,
}

/// What a line's offset may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offset {
    None,
    Free,
    /// The K types subtract a minimum that has no sign.
    NotPositive,
}

/// Numbers, and what their squared errors count. `N` is a multiple of 8.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, const N: usize> {
    pub numbers: &'a [f32; N],
    pub weights: &'a [f32; N],
}

/// Weighted sums over a group: of numbers (x), of codes (q), and of products.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    pub w: f32,
    pub x: f32,
    pub xx: f32,
    pub q: f32,
    pub qq: f32,
    pub xq: f32,
}

impl<const N: usize> Group<'_, N> {
    /// Sums without codes: those with them are zero.
    pub fn moments(&self) -> Sums {
        let [w, x, xx] = self.sum(|w, x| [w, w * x, w * x * x]);
        Sums { w, x, xx, q: 0.0, qq: 0.0, xq: 0.0 }
    }

    /// `moments` with the codes that numbers have by `inverse`.
    #[inline(always)]
    pub fn with_codes(&self, moments: Sums, inverse: Inverse, levels: Levels) -> Sums {
        let [q, qq, xq] = self.sum(|w, x| {
            let q = levels.nearest(x * inverse.factor + inverse.shift);
            let wq = w * q;
            [wq, wq * q, wq * x]
        });
        Sums { q, qq, xq, ..moments }
    }

    /// The weighted squared error where numbers have their nearest codes.
    pub fn error(&self, line: Line, levels: Levels) -> f32 {
        let inverse = line.inverse();
        let [error] = self.sum(|w, x| {
            let miss = x - (levels.nearest(x * inverse.factor + inverse.shift) * line.scale + line.offset);
            [w * miss * miss]
        });
        error
    }

    pub fn codes(&self, line: Line, levels: Levels) -> [i8; N] {
        let inverse = line.inverse();
        self.numbers.map(|x| levels.nearest(x * inverse.factor + inverse.shift) as i8)
    }

    /// Least and greatest number.
    pub fn range(&self) -> (f32, f32) {
        let numbers = self.numbers.iter().copied();
        (numbers.clone().fold(f32::INFINITY, f32::min), numbers.fold(f32::NEG_INFINITY, f32::max))
    }

    /// Sums of `terms` of every weight and number, in eight lanes that a compiler can keep in registers.
    #[inline(always)]
    fn sum<const T: usize>(&self, terms: impl Fn(f32, f32) -> [f32; T]) -> [f32; T] {
        let mut lanes = [[0.0; 8]; T];
        for (numbers, weights) in self.numbers.as_chunks::<8>().0.iter().zip(self.weights.as_chunks::<8>().0) {
            for lane in 0..8 {
                let terms = terms(weights[lane], numbers[lane]);
                for t in 0..T {
                    lanes[t][lane] += terms[t];
                }
            }
        }
        lanes.map(|lane| lane.iter().sum())
    }
}

impl Sums {
    /// The line with the least error for these codes. None: every number has the same code, so that many lines have.
    #[inline(always)]
    pub fn best_line(&self, offset: Offset) -> Option<Line> {
        let through_zero = (self.qq > 0.0).then(|| Line { scale: self.xq / self.qq, offset: 0.0 });
        if offset == Offset::None {
            return through_zero;
        }
        let determinant = self.w * self.qq - self.q * self.q;
        if determinant <= 1e-6 * self.w * self.qq {
            return None;
        }
        let line = Line {
            scale: (self.w * self.xq - self.x * self.q) / determinant,
            offset: (self.qq * self.x - self.q * self.xq) / determinant,
        };
        if offset == Offset::NotPositive && line.offset > 0.0 { through_zero } else { Some(line) }
    }

    /// The weighted squared error of a line with these codes.
    #[inline(always)]
    pub fn error(&self, Line { scale, offset }: Line) -> f32 {
        self.xx - 2.0 * (scale * self.xq + offset * self.x)
            + scale * scale * self.qq
            + 2.0 * scale * offset * self.q
            + offset * offset * self.w
    }
}
