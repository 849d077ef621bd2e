"""The real scheduler and cache under random work: the same tokens as alone, and nothing leaks."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ferrule.testing import SchedulerHarness

VOCAB = 3
PROMPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=24)
MAX_TOKENS = st.integers(1, 12)
WINDOWS = st.sampled_from([(None,), (6,), (None, 6)])


@cache
def alone(windows: tuple[int | None, ...], prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """What a sequence generates with the whole machine to itself, in one chunk, from a cold cache."""
    harness = SchedulerHarness(
        num_blocks=64, vocab_size=VOCAB, windows=windows, max_num_batched_tokens=64, enable_prefix_caching=False
    )
    sequence = harness.add(prompt, max_tokens)
    while not harness.is_finished(sequence):
        assert harness.step() > 0
    return harness.output(sequence)


class Scheduling(RuleBasedStateMachine):
    """Sequences come, run and go in any order, in a pool that is too small for all of them."""

    @initialize(
        num_blocks=st.integers(20, 40),
        max_num_seqs=st.integers(1, 6),
        budget=st.integers(1, 20),
        caching=st.booleans(),
        windows=WINDOWS,
    )
    def start(self, num_blocks, max_num_seqs, budget, caching, windows):
        self.windows, self.budget, self.max_num_seqs = windows, budget, max_num_seqs
        self.harness = SchedulerHarness(
            num_blocks=num_blocks,
            vocab_size=VOCAB,
            windows=windows,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            enable_prefix_caching=caching,
        )
        self.unfinished = {}

    @rule(prompt=PROMPTS, max_tokens=MAX_TOKENS, priority=st.integers(0, 2), salt=st.sampled_from([None, "a"]))
    def add(self, prompt, max_tokens, priority, salt):
        max_tokens = min(max_tokens, self.harness.max_tokens_alone - len(prompt))
        if max_tokens > 0:
            sequence = self.harness.add(prompt, max_tokens, priority=priority, cache_salt=salt)
            self.unfinished[sequence] = (tuple(prompt), max_tokens)

    @rule()
    def step(self):
        num_tokens = self.harness.step()
        assert num_tokens <= self.budget
        assert (num_tokens > 0) == bool(self.unfinished)
        self.check_finished()

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def cancel(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.unfinished)))
        self.harness.cancel(sequence)
        del self.unfinished[sequence]

    def check_finished(self):
        for sequence in [sequence for sequence in self.unfinished if self.harness.is_finished(sequence)]:
            prompt, max_tokens = self.unfinished.pop(sequence)
            assert self.harness.output(sequence) == alone(self.windows, prompt, max_tokens)

    @invariant()
    def holds(self):
        if hasattr(self, "harness"):
            self.harness.check_invariants()
            assert self.harness.num_running <= self.max_num_seqs
            assert self.harness.num_running + self.harness.num_waiting == len(self.unfinished)

    def teardown(self):
        if not hasattr(self, "harness"):
            return
        steps_left = 1000 + 40 * sum(len(prompt) + n for prompt, n in self.unfinished.values())
        while self.unfinished:
            self.step()
            self.holds()
            steps_left -= 1
            assert steps_left > 0, "somebody starves"
        assert self.harness.num_used_blocks == 0


TestScheduling = Scheduling.TestCase


@given(PROMPTS, PROMPTS, MAX_TOKENS, WINDOWS)
def test_a_prefix_hit_changes_nothing_but_the_work(prefix, rest, max_tokens, windows):
    prompt = (prefix * 4)[:40] + rest
    harness = SchedulerHarness(num_blocks=64, vocab_size=VOCAB, windows=windows, max_num_batched_tokens=64)
    for salt in ("a", "a", "b"):
        before = harness.prefix_cache_hits
        sequence = harness.add(prompt, max_tokens, cache_salt=salt)
        while not harness.is_finished(sequence):
            harness.step()
        assert harness.output(sequence) == alone(windows, tuple(prompt), max_tokens)
        hits = harness.prefix_cache_hits - before
        assert hits <= len(prompt) - 1
        if salt == "b":
            assert hits == 0


def test_a_small_pool_preempts_and_every_answer_stays():
    harness = SchedulerHarness(num_blocks=8, vocab_size=VOCAB, max_num_seqs=4, max_num_batched_tokens=16)
    prompts = [(i % VOCAB, 1, 2, i % 2) for i in range(4)]
    sequences = [harness.add(prompt, 16) for prompt in prompts]
    while not all(map(harness.is_finished, sequences)):
        harness.step()
        harness.check_invariants()
    assert harness.num_preemptions > 0
    assert [harness.output(sequence) for sequence in sequences] == [alone((None,), p, 16) for p in prompts]
