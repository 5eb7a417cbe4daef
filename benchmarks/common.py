"""What the benchmarks share: the work folder, timing whole processes, ratios, the machine.

Standard library only, and nothing big may be imported here: on Linux a child's peak memory counts
its parent's until it has started (vfork, then exec).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
PEERS = HERE / "peers"

# Asked of every environment; what is not installed there is left out.
_PACKAGES = (
    "clipcls",
    "open_clip_torch",
    "transformers",
    "rclip",
    "clip-retrieval",
    "pybioclip",
    "torch",
    "torchvision",
    "onnxruntime",
    "openvino",
    "pillow",
    "numpy",
)


def die(reason: str) -> NoReturn:
    """Ends the program with one line."""
    sys.exit(f"{Path(sys.argv[0]).name}: {reason}")


def run_main(main: Callable[[], None]) -> None:
    """Runs a script's main function; what goes wrong with files, or an interruption, is a line."""
    try:
        main()
    except KeyboardInterrupt:
        die("interrupted")
    except OSError as error:
        die(f"{error.filename or 'a file'}: {error.strerror or error}")


class RunError(Exception):
    """A measured command failed; the text says how, in one line."""


@dataclass(frozen=True)
class Work:
    """The folder where everything made for the benchmarks lies."""

    root: Path

    def path(self, *parts: str) -> Path:
        """A path inside, its parent made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def checkpoint(self) -> Path:
        """OpenCLIP's ViT-B-32, random weights."""
        return self.path("models", "ViT-B-32.safetensors")

    @property
    def checkpoint_256(self) -> Path:
        """OpenCLIP's ViT-B-32-256, the architecture that rclip is made for, random weights."""
        return self.path("models", "ViT-B-32-256.safetensors")

    @property
    def hf_model(self) -> Path:
        """The weights of `checkpoint` as transformers' CLIPModel."""
        return self.path("models", "ViT-B-32-hf")

    @property
    def rclip_data(self) -> Path:
        """The weights of `checkpoint_256` as rclip's data folder."""
        return self.path("models", "rclip")

    def python(self, venv: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.root / "venvs" / venv / ("Scripts" if os.name == "nt" else "bin") / "python"


@dataclass
class Run:
    """One measured process."""

    runner: str
    repeat: int
    seconds: float
    peak_rss_mb: float
    images: int = 0
    note: str = ""
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """A program to measure.

    Args:
        name: what the tables call it.
        command: repeat -> the command line.
        environment: added to the process's environment.
        before: called before each run, unmeasured, with the repeat.
        cwd: repeat -> the folder to run in.
        warm_up: a small command that loads the same program, run once and not measured, so that
            no run is the one that compiles Python's bytecode or waits for the disk.
    """

    name: str
    command: Callable[[int], Sequence[object]]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[int], None] = lambda repeat: None
    cwd: Callable[[int], Path | None] = lambda repeat: None
    warm_up: Sequence[object] = ()


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every script takes."""
    made = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument(
        "--work",
        type=Path,
        default=Path.home() / ".cache" / "clipcls-benchmarks",
        help="where images, models, environments and results go",
    )
    made.add_argument(
        "--clipcls",
        type=Path,
        default=Path(sys.executable).parent / "clipcls",
        help="the clipcls command",
    )
    made.add_argument(
        "--precision", default="auto", help="clipcls's --precision; the peers compute in fp32"
    )
    made.add_argument("--repeats", type=int, default=3, help="runs of each program")
    made.add_argument("--peers", default="", help="only these, by commas, or none; nothing: all")
    made.add_argument(
        "--stop-after",
        type=float,
        default=300,
        metavar="SECONDS",
        help="a peer's loop that takes longer is stopped, and its time extrapolated",
    )
    return made


def work_of(args: argparse.Namespace) -> Work:
    """The work folder that the arguments name."""
    if not args.clipcls.exists():
        die(f"{args.clipcls}: there is no such command: install clipcls, or say --clipcls FILE")
    root = args.work.resolve()
    root.mkdir(parents=True, exist_ok=True)
    return Work(root)


def chosen(runners: Sequence[Runner], names: str) -> list[Runner]:
    """The runners that --peers asks for: those of clipcls always, others if named."""
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    return [
        runner for runner in runners if not wanted or runner.name.startswith(("clipcls", *wanted))
    ]


def require(path: Path, how: str) -> Path:
    """A path that must be there.

    Args:
        path: a file or folder.
        how: the command that makes it.
    """
    if not path.exists():
        die(f"{path} is not there: run {how} first")
    return path


def environment(work: Work) -> dict[str, str]:
    """The user's environment with our own caches and no model hub; bytecode is kept, as usual."""
    return {
        **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        "XDG_CACHE_HOME": str(work.path("cache", "x").parent),
        "HF_HOME": str(work.path("cache", "huggingface")),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "WANDB_MODE": "disabled",
    }


def run(
    work: Work,
    name: str,
    command: Sequence[object],
    added: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    repeat: int = 0,
) -> Run:
    """Runs a process from its start to its end and measures it.

    Raises:
        RunError: it failed; its output is in the work folder's `logs`.
    """
    words = [str(word) for word in command]
    log = work.path("logs", f"{name.replace(' ', '-').replace('/', '-')}.txt")
    with log.open("w+b") as err, log.with_suffix(".out").open("w+b") as out:
        err.write(f"$ {shlex.join(words)}\n".encode())
        err.flush()
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**environment(work), **(added or {})},
                cwd=cwd,
            )
        except OSError as error:
            what = f"{words[0]}: {error.strerror or error}"
            raise RunError(f"{what} (benchmarks/venvs.py makes the environments)") from error
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # an interruption: leave nothing running
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            err.seek(0)
            lines = [line.strip() for line in err.read().decode(errors="replace").splitlines()]
            last = next((line for line in reversed(lines[1:]) if line), "it said nothing")
            raise RunError(f"exit status {process.returncode}: {last[:200]} (all of it: {log})")
        out.seek(0)
        said = _last_json(out.read().decode(errors="replace"))
    unit = 1 if sys.platform == "darwin" else 1024
    result = Run(name, repeat, seconds, usage.ru_maxrss * unit / 1e6)
    result.phases = said.get("phases", {})
    done, total = said.get("done", 0), said.get("total", 0)
    if 0 < done < total:
        result.note = f"extrapolated from {done:,} of {total:,}"
        result.seconds += result.phases[said["phase"]] * (total / done - 1)
    return result


def _last_json(text: str) -> dict[str, Any]:
    """A runner's own report: the last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return dict(json.loads(line))
            except ValueError:
                break
    return {}


_warm: set[tuple[str, ...]] = set()


def alternate(
    work: Work, runners: Sequence[Runner], repeats: int, images: int
) -> tuple[list[Run], dict[str, str]]:
    """Runs all runners in turn, `repeats` times over; each turn begins with another.

    Returns:
        the runs, and runner -> why it could not be run.
    """
    runs: list[Run] = []
    failed: dict[str, str] = {}
    for runner in runners:
        program = tuple(map(str, runner.warm_up[:2]))
        if program and program not in _warm:
            _warm.add(program)
            say(f"  warming up {runner.name}")
            runner.before(-1)
            try:
                run(work, runner.name, runner.warm_up, runner.environment, runner.cwd(-1))
            except RunError as error:
                failed[runner.name] = str(error)
                say(f"  {runner.name}: not run: {error}")
    for repeat in range(repeats):
        turn = repeat % len(runners)
        for runner in [*runners[turn:], *runners[:turn]]:
            if runner.name in failed:
                continue
            runner.before(repeat)
            try:
                done = run(
                    work,
                    runner.name,
                    runner.command(repeat),
                    runner.environment,
                    runner.cwd(repeat),
                    repeat,
                )
            except RunError as error:
                failed[runner.name] = str(error)
                say(f"  {runner.name}: not run: {error}")
                continue
            done.images = images
            runs.append(done)
            say(f"  {runner.name} #{repeat + 1}: {done.seconds:.2f} s {done.note}".rstrip())
    return runs, failed


def summary(
    question: str, ours: str, runs: Sequence[Run], failed: Mapping[str, str], **facts: Any
) -> dict[str, Any]:
    """Runs -> what goes into results.json; ratios are of runs of the same turn.

    Args:
        question: what was asked, in words.
        ours: the runner that the others are compared with.
        runs: all of them.
        failed: runner -> why it could not be run.
        facts: anything else worth keeping.
    """
    base = {run.repeat: run.seconds for run in runs if run.runner == ours}
    rows = []
    for name in dict.fromkeys(run.runner for run in sorted(runs, key=lambda run: run.repeat)):
        mine = [run for run in runs if run.runner == name]
        rows.append(
            {
                "runner": name,
                "seconds": spread([run.seconds for run in mine]),
                "images_per_second": spread([run.images / run.seconds for run in mine]),
                "peak_rss_mb": max(run.peak_rss_mb for run in mine),
                "ratio": spread(
                    [run.seconds / base[run.repeat] for run in mine if run.repeat in base]
                ),
                "note": next((run.note for run in mine if run.note), ""),
            }
        )
    rows.sort(key=lambda row: row["runner"] != ours)
    return {
        "question": question,
        "compared_with": ours,
        **facts,
        "summary": rows,
        "not_run": dict(failed),
        "runs": [asdict(run) for run in runs],
    }


def spread(values: Sequence[float]) -> list[float]:
    """Min, median, max; empty for nothing."""
    if not values:
        return []
    return [round(f(values), 4) for f in (min, statistics.median, max)]


def table(result: Mapping[str, Any]) -> str:
    """One question's result as Markdown; columns named in its `without` are left out."""
    columns = {
        "": lambda row: row["runner"] + (f" ({row['note']})" if row["note"] else ""),
        "seconds (min / median / max)": lambda row: _three(row["seconds"]),
        "images a second": lambda row: f"{row['images_per_second'][1]:.3g}",
        "peak memory": lambda row: f"{row['peak_rss_mb']:,.0f} MB",
        "times as long (min / median / max)": lambda row: (
            "1" if row["runner"] == result["compared_with"] else _three(row["ratio"])
        ),
    }
    shown = [name for name in columns if name.partition(" (")[0] not in result.get("without", ())]
    rows = [shown, ["---"] * len(shown)]
    rows += [[columns[name](row) for name in shown] for row in result["summary"]]
    lines = [f"### {result['question']}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    lines += ["", *(f"Not run: {name}: {why}" for name, why in result["not_run"].items())]
    return "\n".join([*lines, result.get("remark", "")]).strip()


def _three(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in values)


def machine() -> dict[str, Any]:
    """The machine, in what a reader of the numbers wants to know."""
    processor = platform.processor() or platform.machine()
    memory = 0.0
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": processor,
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
    }


def versions(python: Path) -> dict[str, str]:
    """Python's and the packages' versions in an environment; empty where there is none."""
    if not python.exists():
        return {}
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {'python': platform.python_version()}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code, *_PACKAGES], capture_output=True, text=True)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def say(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


def finish(work: Work, name: str, result: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Writes one script's result beside the machine's facts, and prints its table."""
    python = Path(args.clipcls).parent / "python"
    whole = {"machine": machine(), "versions": {"clipcls": versions(python)}, name: result}
    path = work.path("results", f"{name}.json")
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    say(f"written to {path}")
