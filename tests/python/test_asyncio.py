"""The API on an event loop: no thread per stream, and whatever is dropped is cancelled."""

import asyncio
import gc
import threading

import pytest

import ferrule
from ferrule import Engine, SamplingParams
from test_engine import GREEDY, PROMPTS, long_request, tokens, wait_until_idle


def test_astream_tells_what_generate_tells(engine):
    async def collect():
        stream = engine.astream([1, 2, 3], GREEDY)
        ids = [token async for delta in stream for token in delta.token_ids]
        assert stream.prompt_token_ids == [1, 2, 3]
        assert stream.metrics.num_generated_tokens == len(ids)
        assert [delta async for delta in stream] == []
        return ids

    assert asyncio.run(collect()) == engine.generate([1, 2, 3], GREEDY)[0].outputs[0].token_ids


def test_agenerate_answers_in_order(engine):
    async def main():
        return await engine.agenerate(PROMPTS, GREEDY), await engine.agenerate([], GREEDY)

    outputs, none = asyncio.run(main())
    assert [output.prompt_token_ids for output in outputs] == PROMPTS
    assert tokens(outputs) == tokens(engine.generate(PROMPTS, GREEDY))
    assert none == []


def test_agenerate_waits_for_room_in_the_queue():
    prompts = [[i % 7, i % 5] for i in range(50)]

    async def main(engine):
        return await engine.agenerate(prompts, GREEDY)

    with Engine("null", max_queue_len=2, max_num_seqs=2) as engine:
        assert tokens(asyncio.run(main(engine))) == tokens(engine.generate(prompts, GREEDY))


def test_hundreds_of_streams_need_no_threads(engine):
    expected = tokens(engine.generate(PROMPTS, GREEDY))

    async def one(i):
        return [token async for delta in engine.astream(PROMPTS[i % 4], GREEDY) for token in delta.token_ids]

    async def main():
        before = threading.active_count()
        answers = await asyncio.gather(*(one(i) for i in range(200)))
        assert threading.active_count() == before
        return answers

    assert asyncio.run(main()) == [expected[i % 4] for i in range(200)]


def test_a_dropped_stream_is_cancelled(engine):
    async def main():
        async for _ in engine.astream([1], long_request(engine)):
            break
        gc.collect()
        await asyncio.to_thread(wait_until_idle, engine)

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_request(engine):
    async def consume():
        async for _ in engine.astream([1], long_request(engine)):
            await asyncio.sleep(0)

    async def main():
        for start in (consume, lambda: engine.agenerate([[1]] * 4, long_request(engine))):
            task = asyncio.ensure_future(start())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until_idle, engine)

    asyncio.run(main())


def test_a_cancelled_wait_loses_no_delta(engine):
    params = SamplingParams(max_tokens=200, ignore_eos=True, seed=3)

    async def main():
        stream = engine.astream([1, 2], params)
        ids = []
        while True:
            waiting = asyncio.ensure_future(stream.__anext__())
            done, _ = await asyncio.wait([waiting], timeout=1e-5)
            if not done:
                waiting.cancel()
                continue
            try:
                ids += waiting.result().token_ids
            except StopAsyncIteration:
                return ids

    assert asyncio.run(main()) == engine.generate([1, 2], params)[0].outputs[0].token_ids


def test_two_tasks_cannot_wait_for_one_stream(engine):
    async def main():
        stream = engine.astream([1], long_request(engine))
        # Deltas that are there already are given at once; the loop does not run in between, so none can
        # come for one that waits.
        first = stream.__anext__()
        while first.done():
            first = stream.__anext__()
        with pytest.raises(RuntimeError, match="another task"):
            stream.__anext__()
        await first
        stream.close()
        assert [delta async for delta in stream] == []

    asyncio.run(main())


def test_errors_reach_the_waiter(engine):
    async def refused():
        with pytest.raises(ferrule.InvalidRequest):
            engine.astream([10**6], GREEDY)
        with pytest.raises(ferrule.InvalidRequest):
            await engine.agenerate([[1], [10**6]], GREEDY)

    async def closed():
        stream = engine.astream([1], long_request(engine))
        batch = engine.agenerate([1], long_request(engine))
        engine.close()
        with pytest.raises(ferrule.Cancelled):
            async for _ in stream:
                pass
        with pytest.raises(ferrule.Cancelled):
            await batch

    asyncio.run(refused())
    wait_until_idle(engine)
    asyncio.run(closed())


def test_a_loop_that_closed_early_harms_nobody(engine):
    async def leave():
        return engine.astream([1], long_request(engine))

    stream = asyncio.run(leave())
    assert engine.generate([1, 2], GREEDY)
    del stream
    wait_until_idle(engine)


def test_outside_a_loop_there_is_no_astream(engine):
    with pytest.raises(RuntimeError, match="no running event loop"):
        engine.astream([1], GREEDY)
