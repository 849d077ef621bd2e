"""Closed and open loops: who sends when."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from load.client import Answer, Endpoint, ask
from load.workload import poisson


@dataclass(frozen=True)
class Plan:
    """How requests are sent. With a rate the loop is open: they come at random, whatever the server does."""

    concurrency: int | None
    """Requests at once. In an open loop more wait, and their wait counts; None: no limit."""
    rate: float | None
    """Arrivals per second."""
    num_requests: int
    duration: float | None
    """Seconds after which nothing is sent any more."""
    seed: int
    leave: Callable[[int], int | None] = lambda number: None
    """After how many pieces the client of request `number` hangs up."""
    beside: Iterator[bytes] | None = None
    """One more client asks these all the while, one after the other."""


@dataclass
class Run:
    answers: list[Answer] = field(default_factory=list)
    wall: float = 0.0
    """Seconds from the first request to the end of the last answer."""
    client_cpu: float = 0.0
    """Seconds that this process computed meanwhile."""
    beside: list[Answer] = field(default_factory=list)
    """What the client of `Plan.beside` was answered: once at least, and the last time perhaps after all others."""


def drive(endpoint: Endpoint, bodies: Iterator[bytes], plan: Plan) -> Run:
    return asyncio.run(_drive(endpoint, bodies, plan))


async def _drive(endpoint: Endpoint, bodies: Iterator[bytes], plan: Plan) -> Run:
    loop = asyncio.get_running_loop()
    run = Run()
    numbered = enumerate([next(bodies) for _ in range(plan.num_requests)])
    begun, cpu = loop.time(), time.process_time()
    deadline = begun + plan.duration if plan.duration else None
    over = asyncio.Event()
    beside = asyncio.create_task(_beside(endpoint, plan.beside or iter(()), over, run))
    if plan.rate is None:
        workers = range(plan.concurrency or 1)
        await asyncio.gather(*(_closed(endpoint, numbered, plan, deadline, run) for _ in workers))
    else:
        await _open(endpoint, numbered, plan, plan.rate, deadline, run)
    over.set()
    await beside
    run.wall = max((answer.ended for answer in run.answers), default=begun) - begun
    run.client_cpu = time.process_time() - cpu
    for answer in (*run.answers, *run.beside):
        answer.read()
    return run


async def _beside(endpoint: Endpoint, bodies: Iterator[bytes], over: asyncio.Event, run: Run) -> None:
    for body in bodies:
        run.beside.append(await ask(endpoint, body, asyncio.get_running_loop().time()))
        if over.is_set():
            return


async def _closed(
    endpoint: Endpoint, numbered: Iterator[tuple[int, bytes]], plan: Plan, deadline: float | None, run: Run
) -> None:
    """One of several clients: asks again as soon as it is answered."""
    now = asyncio.get_running_loop().time
    for number, body in numbered:
        run.answers.append(await ask(endpoint, body, now(), plan.leave(number)))
        if deadline is not None and now() >= deadline:
            return


async def _open(
    endpoint: Endpoint,
    numbered: Iterator[tuple[int, bytes]],
    plan: Plan,
    rate: float,
    deadline: float | None,
    run: Run,
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    room = asyncio.Semaphore(plan.concurrency or plan.num_requests)

    async def one(number: int, body: bytes, due: float) -> None:
        async with room:
            run.answers.append(await ask(endpoint, body, due, plan.leave(number)))

    tasks = []
    for (number, body), at in zip(numbered, poisson(rate, plan.seed), strict=False):
        due = begun + at
        if deadline is not None and due >= deadline:
            break
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(asyncio.create_task(one(number, body, due)))
    await asyncio.gather(*tasks)
