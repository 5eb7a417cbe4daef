"""What `clipcls serve` does at its capacity and at twice of it: latency, shed load, memory.

    python benchmarks/serve_load.py --seconds 600

Starts a server of its own with the bundled model, or takes `--url`. First 16 connections ask one
after the other, which gives the capacity. Then requests are offered at `--times` that rate, at
random times (Poisson), whether or not earlier ones are answered; latency counts from the time at
which a request was due, so that a client that cannot keep up shows. Each request holds one of the
photos in examples/photos. The client runs on the same machine and takes its share of it.

`--hostile` offers the same once more beside clients of other addresses that send headers and bodies
byte by byte, stall large uploads, take no answers, and send what is no HTTP, no form or no image.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import REPOSITORY, die, run_main

CONNECTIONS = 16
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_RSS = re.compile(rb"^process_resident_memory_bytes (\S+)", re.MULTILINE)
_FILES = re.compile(rb"^process_open_fds (\S+)", re.MULTILINE)
_SOURCES = 8  # addresses of the clients that are measured


class Client:
    """Sends prepared requests over connections that are kept."""

    def __init__(self, url: str, bodies: Sequence[bytes], pid: int = 0) -> None:
        self.pid = pid
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.host, self.port = host, int(port)
        self.bodies = bodies
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.opened = 0

    def post(self, number: int) -> bytes:
        """A request with one image."""
        body = self.bodies[number % len(self.bodies)]
        head = (
            f"POST /classify HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: multipart/form-data; boundary=xx\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def get(self, path: str) -> bytes:
        """A request without a body."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n\r\n".encode()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        reader = None
        while self.idle and (reader is None or reader.at_eof()):  # the server closes idle ones
            reader, writer = self.idle.pop()
        if reader is None or reader.at_eof():
            self.opened += 1
            reader, writer = await self.connect(f"127.0.1.{self.opened % _SOURCES + 1}")
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self.idle.append((reader, writer))
        return int(head[9:12]), body

    async def connect(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, from an address of this machine where the server is on it too."""
        local = (source, 0) if self.host.startswith("127.") else None
        return await asyncio.open_connection(self.host, self.port, local_addr=local)

    async def process(self) -> tuple[float, float, float]:
        """The server's resident memory in MB, open files and threads."""
        text = (await self.ask(self.get("/metrics")))[1]
        rss, files = _RSS.search(text), _FILES.search(text)
        threads = float("nan")
        if self.pid:
            with contextlib.suppress(OSError):
                threads = len(os.listdir(f"/proc/{self.pid}/task"))
        return (
            float(rss[1]) / 1e6 if rss else float("nan"),
            float(files[1]) if files else float("nan"),
            threads,
        )


async def capacity(client: Client, seconds: float) -> float:
    """Answers a second, by connections that ask one after the other."""
    end = time.monotonic() + seconds
    done = 0

    async def work(number: int) -> None:
        nonlocal done
        while time.monotonic() < end:
            status, body = await client.ask(client.post(number))
            if status != 200:
                die(f"the server answers {status}: {body[:200]!r}")
            number += CONNECTIONS
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(work(number) for number in range(CONNECTIONS)))
    return done / (time.monotonic() - started)


async def overload(client: Client, rate: float, seconds: float) -> dict[str, object]:
    """Offers so many requests a second and looks at what becomes of them."""
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = {}
    memory: list[tuple[float, float]] = []
    counts: list[tuple[float, float]] = []
    late: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    failures: Counter[str] = Counter()
    start = loop.time()

    async def one(number: int, due: float) -> None:
        late.append(loop.time() - due)
        try:
            status, _ = await client.ask(client.post(number))
        except (OSError, asyncio.IncompleteReadError) as error:
            failures[type(error).__name__] += 1
            return
        latencies.setdefault(status, []).append(loop.time() - due)

    async def watch() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                rss, *others = await client.process()
                if not math.isnan(rss):  # an overloaded server may refuse /metrics, too
                    memory.append((loop.time() - start, rss))
                    counts.append((others[0], others[1]))
            await asyncio.sleep(min(5.0, seconds / 20))

    watcher = asyncio.create_task(watch())
    chance = random.Random(0)
    due, number = start, 0
    while due < start + seconds:
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += chance.expovariate(rate)
        number += 1
    if tasks:
        await asyncio.wait(tasks)
    took = loop.time() - start
    watcher.cancel()
    accepted = latencies.get(200, [])
    shed = latencies.get(503, [])
    third = max(1, len(memory) // 3)
    return {
        "offered": number,
        "offered_a_second": round(number / seconds, 1),
        "accepted_a_second": round(len(accepted) / took, 1),
        "shed_share": round(len(shed) / number, 3),
        "statuses": {str(status): len(values) for status, values in sorted(latencies.items())},
        "failures": dict(failures),
        "accepted_seconds": quantiles(accepted),
        "shed_seconds": quantiles(shed),
        "client_late_seconds": quantiles(late),
        "files_and_threads": {
            "first": counts[0],
            "highest": [max(column) for column in zip(*counts, strict=True)],
            "last": counts[-1],
        },
        "rss_mb": {
            "first": round(memory[0][1]),
            "highest": round(max(value for _, value in memory)),
            "first_third": round(sum(v for _, v in memory[:third]) / third),
            "last_third": round(sum(v for _, v in memory[-third:]) / third),
            "over_time": [
                (round(at), round(value)) for at, value in memory[:: len(memory) // 20 or 1]
            ],
        },
    }


class Hostile:
    """Clients that mean harm, each of an address of its own, until they are cancelled."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.attempts: Counter[str] = Counter()
        form = b"Content-Type: multipart/form-data; boundary=xx\r\n"
        part = b'--xx\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        end = b"\r\n--xx--\r\n"
        post = b"POST /classify HTTP/1.1\r\nHost: %s:%d\r\n" % (
            client.host.encode(),
            client.port,
        )
        photo = client.bodies[0]

        def whole(body: bytes) -> bytes:
            return post + form + b"Content-Length: %d\r\n\r\n" % len(body) + body

        # name: (how many, what is sent at once, what is sent byte by byte, pause between attempts)
        self.kinds: dict[str, tuple[int, bytes, bytes, float]] = {
            "slow headers": (40, b"", post * 9, 0.0),
            "slow bodies": (70, post + form + b"Content-Length: 90000\r\n\r\n", part * 9, 0.0),
            "stalled uploads": (
                6,
                post + form + b"Content-Length: 60000000\r\n\r\n" + part + bytes(40 << 20),
                bytes(600),
                0.0,
            ),
            "no reading": (20, client.get("/openapi.json") * 100, b"", 10.0),
            "too large": (2, post + form + b"Content-Length: 10000000000\r\n\r\n", b"x" * 99, 1.0),
            "chunks of a byte": (
                1,
                post + form + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000,
                b"",
                2.0,
            ),
            "no HTTP": (2, b"\x16\x03\x01" + bytes(range(256)) * 9, b"", 1.0),
            "no form": (1, whole(b"nonsense"), b"", 1.0),
            "no image": (1, whole(part + b"text" + end), b"", 1.0),
            "cut photo": (1, whole(photo[: len(photo) // 2] + end), b"", 2.0),
            "silence": (40, b"", b"", 20.0),
            "hurry": (1, b"GET", b"", 0.05),
        }

    async def run(self) -> None:
        """Starts all of them."""
        loops = []
        for number, (name, (count, *_)) in enumerate(self.kinds.items()):
            loops += [self._repeat(name, f"127.0.2.{number + 1}") for _ in range(count)]
        await asyncio.gather(*loops)

    async def _repeat(self, name: str, source: str) -> None:
        _, sent, drip, pause = self.kinds[name]
        await asyncio.sleep(random.random() * 2)
        while True:
            self.attempts[name] += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await self.client.connect(source)
                try:
                    writer.write(sent)
                    if name != "no reading":
                        await asyncio.wait_for(self._drip(reader, writer, drip), 60)
                    await asyncio.sleep(pause)
                finally:
                    writer.close()
            await asyncio.sleep(0.05)

    @staticmethod
    async def _drip(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes
    ) -> None:
        for byte in text:
            await writer.drain()
            writer.write(bytes([byte]))
            await asyncio.sleep(0.5)
            if reader.at_eof():
                return


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest."""
    if not values:
        return {}
    ranked = sorted(values)

    def at(share: float) -> float:
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 4)

    return {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": round(ranked[-1], 4)}


def bodies() -> list[bytes]:
    """A form for each of the example photos."""
    photos = sorted((REPOSITORY / "examples/photos").glob("*.jpg"))
    head = b'--xx\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n'
    return [head % p.name.encode() + p.read_bytes() + b"\r\n--xx--\r\n" for p in photos]


@contextmanager
def server(options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server of our own; its URL and process."""
    labels = REPOSITORY / "examples/labels.txt"
    command = [sys.executable, "-m", "clipcls", "serve", "--labels", str(labels), "-m", "mini"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-cache", *options], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        for line in process.stderr:
            if " answers at " in line:
                yield line.split(" answers at ")[1].split()[0], process.pid
                return
            print(line, end="", file=sys.stderr)
        die("the server did not start")
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Runs it and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="a server that runs already, http://HOST:PORT")
    parser.add_argument("--seconds", type=float, default=60, help="how long to offer too much")
    parser.add_argument("--times", type=float, default=2, help="how much of the capacity to offer")
    parser.add_argument("--capacity-seconds", type=float, default=15)
    parser.add_argument(
        "--hostile", type=float, default=0, metavar="S", help="so long beside hostile clients, too"
    )
    parser.add_argument("--only-capacity", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file too")
    parser.add_argument("options", nargs="*", help="of clipcls serve, after --")
    given = parser.parse_args()

    async def measure(url: str, pid: int) -> dict[str, object]:
        client = Client(url, bodies(), pid)
        await capacity(client, 2)  # a warm-up
        rate = await capacity(client, given.capacity_seconds)
        figures: dict[str, object] = {
            "options": given.options,
            "capacity_a_second": round(rate, 1),
            "latency_at_capacity": round(CONNECTIONS / rate, 4),
        }
        if not given.only_capacity:
            figures |= await overload(client, given.times * rate, given.seconds)
        if given.hostile:
            print(json.dumps(figures, indent=1), flush=True)  # in case the rest fails
            hostile = Hostile(client)
            others = asyncio.create_task(hostile.run())
            beside = await overload(client, given.times * rate, given.hostile)
            others.cancel()
            figures["beside_hostile"] = beside | {"attempts": dict(hostile.attempts)}
            await asyncio.sleep(15)
            figures["afterwards"] = await client.process()
        return figures

    if given.url:
        figures = asyncio.run(measure(given.url, 0))
    else:
        with server(given.options) as (url, pid):
            figures = asyncio.run(measure(url, pid))
    text = json.dumps(figures, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    run_main(main)
