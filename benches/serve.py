"""A server under load: throughput, goodput, and how long its users wait.

    python benches/serve.py smollm2 --concurrency 16 --num-requests 64
    python benches/serve.py smollm2 --rate 2 --duration 60 --peer-binary llama-server
    python benches/serve.py smollm2 --engine --prompt-len 128 --answer-len 128 --vocab 49152 --concurrency 16 --rounds 3
    python benches/serve.py null --cpus 0 --client-cpus 1 --answer-len 2000 --vocab 1024 --prompt-len 16
    python benches/serve.py gpt-oss --url https://example.org --api-key-env KEY --rate 1
    python benches/serve.py smollm2 --concurrency 2 --prompt-len 64 --answer-len 8 --beside-prompt-len 4096
    python benches/serve.py smollm2 --peer-url http://localhost:8080 --rounds 3
    python benches/serve.py smollm2 --soak --duration 300

Lengths are log-normal with the means of ShareGPT's conversations (161 tokens of prompt, 338 of answer; cut at 1,024),
or equal ones (--prompt-len, --answer-len); everything is drawn from --seed. Without --rate the loop is closed: each of
--concurrency clients asks again when it is answered. With it arrivals are Poisson, and time counts from the moment a
request was due. TTFT is to the first frame with text, ITL between frames with text (a server that lags may put several
tokens into one: *tokens per frame*), TPOT the mean time per token after the first. Goodput counts answers within
--slo-ttft and --slo-tpot. With --beside-prompt-len another client sends prompts of that length all the while, one after
the other, which are counted apart. What is compared alternates, round by round; rates are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.engines import ferrule as command
from load import servers, soak
from load.drive import Plan, Run, drive
from load.report import Slo, summary, table
from load.servers import Target
from load.workload import Lengths, Workload

BINARY = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target")) / "release" / "ferrule"


def main() -> int:
    args = _arguments()
    if args.client_cpus is not None:
        os.sched_setaffinity(0, args.client_cpus)
    if args.soak:
        return soak.main(args.binary, args.model, args.duration or 300.0, args.seed, args.out)
    results = _measure(args)
    report = {"machine": command.doctor(args.binary)["machine"], "arguments": _plain(args), "results": results}
    print(table(results))
    if args.engine:
        _compare_with_engine(results)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(result.get("complete", 1) for result in results.values()) else 1


def _measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """One result per server, and one of the engine in process."""
    slo = Slo(args.slo_ttft / 1e3, args.slo_tpot / 1e3)
    plan = Plan(args.concurrency, args.rate, args.num_requests, args.duration, args.seed)
    long = Lengths(args.beside_prompt_len, 1, 0.0, 0.0) if args.beside_prompt_len else None
    with ExitStack() as running:
        targets = [running.enter_context(target) for target in _targets(args)]
        runs: dict[str, list[Run]] = {target.name: [] for target in targets}
        cpu = dict.fromkeys(runs, 0.0)
        engine: list[dict[str, Any]] = []
        for target in targets:
            drive(target.endpoint, _workload(args, target).bodies(), Plan(1, None, 1, None, 0))
        for number in range(args.rounds):
            for target in targets:
                # Other prompts each time, or the second round would find the first one's in the cache.
                bodies = _workload(args, target, number).bodies()
                beside = Workload(target.model, long, args.seed + 1000 + number, args.vocab).bodies() if long else None
                before = target.cpu_seconds()
                runs[target.name].append(drive(target.endpoint, bodies, replace(plan, beside=beside)))
                cpu[target.name] += target.cpu_seconds() - before
            if args.engine:
                engine.append(_engine(args))
    results = {name: summary(of, slo, cpu[name]) for name, of in runs.items()}
    return {**results, **({"engine": _median(engine)} if engine else {})}


def _targets(args: argparse.Namespace) -> list[Any]:
    targets: list[Any] = []
    if args.url:
        key = os.environ.get(args.api_key_env) if args.api_key_env else None
        targets.append(nullcontext(Target("server", _base(args.url), args.model, key)))
    else:
        targets.append(servers.ferrule(args.binary, args.model, args.server_arg, args.cpus))
    if args.peer_url:
        targets.append(nullcontext(Target("peer", _base(args.peer_url), args.model)))
    if args.peer_binary:
        file = servers.model_file(args.binary, args.model)
        slots = args.concurrency or 16
        targets.append(servers.llama_server(args.peer_binary, file, args.peer_arg, slots, args.cpus))
    return targets


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _workload(args: argparse.Namespace, target: Target, number: int = -1) -> Workload:
    lengths = Lengths(
        args.prompt_len or args.prompt_mean,
        args.answer_len or args.answer_mean,
        0.0 if args.prompt_len else Lengths.prompt_sigma,
        0.0 if args.answer_len else Lengths.answer_sigma,
    )
    return Workload(target.model, lengths, args.seed + 1 + number, args.vocab)


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    """The same lengths at once, without HTTP."""
    lengths = ["--prompt-len", str(args.prompt_len), "--gen-len", str(args.answer_len)]
    batch = ["--batch", str(args.concurrency), "--repetitions", "1", "--json"]
    result = command.json_of([str(args.binary), "bench", args.model, *lengths, *batch], timeout=600)
    return dict(result["results"][0])


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    rounds = [result["total_tokens_per_s"] for result in results]
    return {"total_tokens_per_s": statistics.median(rounds), "rounds": rounds}


def _compare_with_engine(results: dict[str, dict[str, Any]]) -> None:
    served, alone = (results[name]["rounds"] for name in ("ferrule", "engine"))
    shares = [ours / theirs for ours, theirs in zip(served, alone, strict=True)]
    rounds = ", ".join(f"{share:.1%}" for share in shares)
    print(f"\nthe server has {statistics.median(shares):.1%} of the engine's tokens per second in process ({rounds})")


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | list) else str(value) for name, value in vars(args).items()}


def _cpus(text: str) -> set[int]:
    return {int(cpu) for cpu in text.split(",")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="what the server calls it, or what ferrule serve is started with")
    add("--url", help="a server that runs; otherwise ferrule serve MODEL is started")
    add("--api-key-env", metavar="NAME", help="the environment variable that has its key")
    add("--binary", type=Path, default=BINARY, help="the ferrule command")
    add(
        "--server-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="for ferrule serve, such as --server-arg=--threads=2",
    )
    add("--peer-binary", type=Path, help="llama.cpp's llama-server, measured on the same model")
    add("--peer-url", help="another server that runs, measured in alternation, under the same name of the model")
    add("--peer-arg", action="append", default=[], metavar="ARG", help="for it")
    add("--cpus", help="bind the server to these")
    add("--client-cpus", type=_cpus, help="bind this client to these")
    add("--engine", action="store_true", help="measure the engine in process too, with equal lengths")
    add("--concurrency", type=int, help="requests at once [16 in a closed loop, no limit in an open one]")
    add("--rate", type=float, help="arrivals per second: an open loop")
    add("--num-requests", type=int, help="per round [4 per client; with --rate --duration, as many as come]")
    add("--duration", type=float, metavar="S", help="seconds per round after which nothing is sent")
    add("--rounds", type=int, default=1)
    add("--prompt-mean", type=int, default=Lengths.prompt_mean)
    add("--answer-mean", type=int, default=Lengths.answer_mean)
    add("--prompt-len", type=int, help="equal lengths instead of drawn ones")
    add("--answer-len", type=int)
    add("--beside-prompt-len", type=int, metavar="N", help="one more client sends prompts of N tokens all the while")
    add("--vocab", type=int, metavar="N", help="prompts of token ids below N, of exact lengths, instead of words")
    add("--slo-ttft", type=float, default=1000, metavar="MS")
    add("--slo-tpot", type=float, default=100, metavar="MS")
    add("--seed", type=int, default=1)
    add("--out", type=Path, metavar="FILE", help="writes the results as JSON")
    add(
        "--soak", action="store_true", help="200 connections above capacity with clients that hang up; checks for leaks"
    )
    args = parser.parse_args()
    if args.engine and not (args.prompt_len and args.answer_len and args.vocab and args.rate is None):
        parser.error("--engine needs --prompt-len, --answer-len, --vocab and a closed loop")
    if args.rate is None:
        args.concurrency = args.concurrency or 16
    expected = args.rate * args.duration * 2 + 100 if args.rate and args.duration else 4 * (args.concurrency or 16)
    args.num_requests = args.num_requests or int(args.concurrency if args.engine else expected)
    return args


if __name__ == "__main__":
    sys.exit(main())
