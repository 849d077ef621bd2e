//! How the tokens of a step are divided among those that want some.

use super::live::Slot;

/// A prompt overtakes one that lacks at least this many times its tokens.
const OVERTAKING_RATIO: usize = 4;

/// What a sequence wants of a step, and what it gets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    pub slot: Slot,
    pub num_tokens: usize,
    /// May it have a part of the step that a much longer one before it could use?
    pub may_overtake: bool,
    /// At most this many tokens, of which it takes fewer if blocks or rows are lacking.
    pub share: usize,
}

/// All demands of a step, in the order of rank.
#[derive(Debug, Default)]
pub(super) struct Demands {
    entries: Vec<Demand>,
    /// Those that overtake, shortest first.
    overtaking: Vec<usize>,
}

impl Demands {
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn push(&mut self, slot: Slot, num_tokens: usize, may_overtake: bool) {
        self.entries.push(Demand { slot, num_tokens, may_overtake, share: 0 });
    }

    pub fn get(&self, position: usize) -> Option<Demand> {
        self.entries.get(position).copied()
    }

    /// The first that wants more than the one token of a running answer.
    pub fn first_long(&self) -> Option<Demand> {
        self.entries.iter().find(|demand| demand.num_tokens > 1).copied()
    }

    /// In the order of rank, but that the first long one leaves half of what it could have to much shorter ones,
    /// shortest first. It gets on at half its pace or faster, so that any number of short ones cannot starve it;
    /// when it is done, the next in rank is first. Running answers are the shortest of all.
    pub fn divide(&mut self, num_tokens: usize) {
        let left = self.hand_out_in_order(0, num_tokens);
        if left > 0 || self.entries.last().is_none_or(|last| last.share == last.num_tokens) {
            return;
        }
        let Some(first) = self.entries.iter().position(|demand| demand.num_tokens > 1) else { return };
        let num_shared: usize = self.entries[first..].iter().map(|demand| demand.share).sum();
        self.entries[first..].iter_mut().for_each(|demand| demand.share = 0);
        let num_given = self.hand_out_to_short(first, num_shared / 2);
        self.hand_out_in_order(first, num_shared - num_given);
    }

    /// Fills the shares from `start` on, and returns how many tokens nobody wants.
    fn hand_out_in_order(&mut self, start: usize, mut num_tokens: usize) -> usize {
        for demand in &mut self.entries[start..] {
            let more = (demand.num_tokens - demand.share).min(num_tokens);
            demand.share += more;
            num_tokens -= more;
        }
        num_tokens
    }

    /// Returns how many of the tokens are given away.
    fn hand_out_to_short(&mut self, first: usize, num_tokens: usize) -> usize {
        let most = self.entries[first].num_tokens / OVERTAKING_RATIO;
        let overtakes = |demand: &Demand| demand.may_overtake && demand.num_tokens <= most;
        self.overtaking.clear();
        self.overtaking.extend((first + 1..self.entries.len()).filter(|&index| overtakes(&self.entries[index])));
        self.overtaking.sort_unstable_by_key(|&index| (self.entries[index].num_tokens, index));
        let mut left = num_tokens;
        for &index in &self.overtaking {
            let demand = &mut self.entries[index];
            demand.share = demand.num_tokens.min(left);
            left -= demand.share;
        }
        num_tokens - left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(num_tokens: usize, wanted: &[usize]) -> Vec<usize> {
        let mut demands = Demands::default();
        wanted.iter().enumerate().for_each(|(slot, &wanted)| demands.push(slot, wanted, true));
        demands.divide(num_tokens);
        demands.entries.iter().map(|demand| demand.share).collect()
    }

    #[test]
    fn short_ones_have_half_of_a_long_ones_step() {
        assert_eq!(shares(512, &[4000, 100]), [412, 100]);
        assert_eq!(shares(512, &[4000, 1000, 100, 1]), [256, 155, 100, 1], "shortest first");
        assert_eq!(shares(512, &[1, 1, 4000, 1, 300]), [1, 1, 255, 1, 254], "who comes before has its own first");
        assert_eq!(shares(512, &[4000, 1001]), [512, 0], "too long to overtake");
        assert_eq!(shares(512, &[300, 300, 300]), [300, 212, 0], "equals come in order");
        assert_eq!(shares(1, &[3, 1]), [1, 0]);
    }

    #[test]
    fn who_will_find_its_prefix_in_the_cache_does_not_overtake() {
        let mut demands = Demands::default();
        demands.push(0, 4000, true);
        demands.push(1, 100, false);
        demands.divide(512);
        assert_eq!(demands.entries.iter().map(|demand| demand.share).collect::<Vec<_>>(), [512, 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_wasted_and_the_first_has_half(
            num_tokens in 1usize..100,
            wanted in prop::collection::vec(1usize..60, 1..12),
        ) {
            let shares = shares(num_tokens, &wanted);
            prop_assert!(shares.iter().zip(&wanted).all(|(share, wanted)| share <= wanted));
            prop_assert_eq!(shares.iter().sum::<usize>(), num_tokens.min(wanted.iter().sum()));
            let first = wanted.iter().position(|&wanted| wanted > 1).unwrap_or(0);
            let num_left = num_tokens.saturating_sub(first);
            prop_assert!(shares[first] >= wanted[first].min(num_left.div_ceil(2)), "{:?}", shares);
        }
    }
}
