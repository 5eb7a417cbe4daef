"""Do runs that are killed at a random moment lose anything, or leave anything behind?

    python benchmarks/kill.py PHOTOS --work EMPTY_FOLDER [--commands classify,fit] [--kills 50]

PHOTOS holds one folder per label. A run is killed at a uniformly random moment of the time that it
usually takes, every fifth one as soon as it writes results. Then both files of the cache must be
sound and no result half written, and the same command again must give the results and leave the
files of an undisturbed run. A third of the runs of `classify` start without a cache.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from common import die, run_main

COMMANDS = {
    "classify": "classify --labels labels.txt photos -o out/r.csv",
    "fit": "fit photos -o out/c.safetensors",
    "evaluate": "evaluate --labels labels.txt photos -o out/e.json --html out/e.html",
}
FOLDERS = {"XDG_CACHE_HOME": "cache", "XDG_STATE_HOME": "state", "TMPDIR": "tmp"}
NUMBER = re.compile(rb"-?\d+\.\d+")


def reset(cache: str = "") -> None:
    """Empties the folders; the cache becomes a copy of the one named."""
    for folder in ("out", *FOLDERS.values()):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    if cache:
        shutil.copytree(cache, "cache", dirs_exist_ok=True)


def start(command: str) -> subprocess.Popen[bytes]:
    """The command, with its cache, state and temporary files in the working folder."""
    own = {name: os.path.abspath(folder) for name, folder in FOLDERS.items()}
    words = [sys.executable, "-m", "clipcls", *COMMANDS[command].split(), "-m", "mini", "-q"]
    return subprocess.Popen(words, env=os.environ | own, stderr=subprocess.PIPE)


def finish(command: str) -> float:
    """Runs it to the end, which must go without a warning; the seconds it took."""
    began, process = time.monotonic(), start(command)
    said = process.communicate()[1].decode()
    if process.returncode or "warning" in said:
        die(f"{command}: exit status {process.returncode}: {said}")
    return time.monotonic() - began


def results() -> dict[str, bytes]:
    """The finished result files."""
    return {p.name: p.read_bytes() for p in sorted(Path("out").iterdir()) if p.suffix != ".part"}


def files() -> set[str]:
    """Every file; OpenVINO names its compiled graphs anew at each export."""
    found = (p for folder in ("out", *FOLDERS.values()) for p in Path(folder).rglob("*"))
    return {re.sub(r"[0-9a-f]+\.blob", "N.blob", str(p)) for p in found if p.is_file()}


def is_same(found: bytes, wanted: bytes) -> bool:
    """Whether results agree; images encoded in another batch may differ in the fifth place."""
    pairs = zip(NUMBER.findall(found), NUMBER.findall(wanted), strict=False)
    is_near = all(abs(float(one) - float(other)) < 1e-4 for one, other in pairs)
    return found == wanted or (is_near and NUMBER.sub(b"", found) == NUMBER.sub(b"", wanted))


def check(command: str, wanted: dict[str, bytes]) -> None:
    """What a killed run left; of the cache a copy, since opening it would already repair it."""
    shutil.rmtree("copy", ignore_errors=True)
    shutil.copytree("cache", "copy", ignore=shutil.ignore_patterns("graphs", "*-shm"))
    for path in Path("copy").rglob("*.sqlite3"):
        connection = sqlite3.connect(path)
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            die(f"{path}: is damaged")
        connection.close()
    for name, data in results().items():
        if not is_same(data, wanted[name]):
            die(f"{command}: {name} is half written")


def kill(command: str, number: int, seconds: float) -> str:
    """Starts a run and kills it; when that was, "" where it had ended before."""
    moment, process, began = random.random() * seconds, start(command), time.monotonic()
    while process.poll() is None and time.monotonic() < began + moment:
        time.sleep(0.0005)
        if number % 5 == 0 and any(Path("out").glob("*.part")):
            time.sleep(random.random() * 0.03)
            break
    process.kill()
    process.communicate()
    when = "while it wrote" if any(Path("out").glob("*.part")) else "before or after"
    return when if process.returncode < 0 else ""


def main() -> None:
    """Prints, for each command, when it was killed and which files were left over at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    given = parser.parse_args()
    photos = given.photos.absolute()
    given.work.mkdir(parents=True, exist_ok=True)
    os.chdir(given.work)
    Path("photos").symlink_to(photos)
    Path("labels.txt").write_text("".join(f"{p.name}\n" for p in sorted(photos.iterdir())))
    reset()
    from_nothing = finish("classify")
    for command in COMMANDS:
        finish(command)
    shutil.copytree("cache", "full")
    for command in given.commands.split(","):
        reset("full")
        usually, wanted, usual = finish(command), results(), files()
        kills: Counter[str] = Counter()
        left: set[str] = set()
        while kills.total() < given.kills:
            is_first = command == "classify" and kills.total() % 3 == 0
            reset("" if is_first else "full")
            when = kill(command, kills.total(), from_nothing if is_first else usually)
            if not when:
                continue
            check(command, wanted)
            finish(command)
            found = results()
            if found.keys() != wanted.keys() or not all(
                is_same(found[n], wanted[n]) for n in found
            ):
                die(f"{command}: other results after a kill: see {Path.cwd()}")
            left |= files() - usual
            kills[f"{'without a cache, ' if is_first else ''}{when}"] += 1
        print(f"{command} ({usually:.1f} s): killed {dict(kills)}; left over: {left or 'nothing'}")


if __name__ == "__main__":
    run_main(main)
