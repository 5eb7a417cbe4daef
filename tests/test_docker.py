"""The Dockerfile: hadolint finds nothing, and where Docker runs, the image serves."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    run = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_what_it_copies_reaches_the_builder() -> None:
    """.dockerignore leaves everything out but what it names."""
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {
        name
        for line in DOCKERFILE.read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@pytest.fixture
def image() -> Iterator[str]:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker is not running")
    name = "clipcls-test"
    subprocess.run([docker, "build", "-t", name, ROOT], check=True)
    yield name
    subprocess.run([docker, "image", "rm", "--force", name], check=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_serves(image: str) -> None:
    options = ["--rm", "-d", "-p", "127.0.0.1:0:8000", "-e", "CLIPCLS_TOKEN=t", "-e"]
    command = ["docker", "run", *options, "CLIPCLS_MODEL=mini", image]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        port = subprocess.run(
            ["docker", "port", container, "8000"], check=True, capture_output=True, text=True
        ).stdout.strip()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(1)
            try:
                assert httpx.get(f"http://{port}/healthz").status_code == 200
                break
            except httpx.TransportError:
                continue
        photo = next((ROOT / "examples/photos").glob("*.jpg"))
        answer = httpx.post(
            f"http://{port}/classify",
            files={"images": photo.read_bytes()},
            data={"labels": ["cat", "dog"]},
            headers={"Authorization": "Bearer t"},
            timeout=120,
        )
        assert answer.status_code == 200
    finally:
        subprocess.run(["docker", "kill", container], check=True, capture_output=True)
