"""Files of the Hugging Face Hub: those on this machine, and how the others get here.

huggingface_hub does the work: its cache (HF_HOME, HF_HUB_CACHE), its endpoint (HF_ENDPOINT), its
downloads that resume and appear under their name only when whole. What it lacks is added here: a
file that is already here costs no request, and a hub that does not answer costs seconds.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from clipcls.errors import ModelUnavailableError, UnknownModelError

__all__ = ["REACH_SECONDS", "cached", "fetch"]

# All the time that finding out whether the hub can be reached may take.
REACH_SECONDS = 3.0


def cached(repo: str, *names: str) -> Path | None:
    """The first of these files of a repository that is on this machine; no network.

    Reads the documented layout of the hub's cache itself: huggingface_hub's own look-up takes
    0.1 s to import, a quarter of what a run with nothing new to compute may take.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        return next((path for name in names if (path := snapshot / name).is_file()), None)
    except (OSError, ValueError):
        return None


def fetch(repo: str, *names: str, progress: bool = True) -> Path | None:
    """The first of these files that a repository has, downloaded if it is not here.

    Args:
        repo: `organisation/name` of a model repository.
        names: file names, the preferred one first.
        progress: show a bar for a download where stderr is a terminal.

    Returns:
        the file's path in the hub's cache, or None where the repository has none of them.

    Raises:
        UnknownModelError: there is no such repository.
        ModelUnavailableError: the file is not here and cannot be downloaded now.
    """
    if path := cached(repo, *names):
        return path
    from huggingface_hub import constants, errors, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        raise ModelUnavailableError(
            f"{repo}: {names[0]} is not in {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; "
            "unset it once to download"
        )
    try:
        _reach(constants.ENDPOINT)
        with _bars(progress):
            for name in names:
                # A file the repository lacks raises too, and so does (as a subclass) a failure to
                # find out.
                try:
                    return Path(hf_hub_download(repo, name))
                except errors.LocalEntryNotFoundError:
                    raise
                except errors.EntryNotFoundError:
                    continue
        return None
    except ModelUnavailableError as error:
        raise ModelUnavailableError(
            f"{repo}: {names[0]} is not on this machine and {error}"
        ) from None
    except errors.GatedRepoError:
        raise ModelUnavailableError(
            f"{repo}: gated; accept its terms at {constants.ENDPOINT}/{repo}, then `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UnknownModelError(
            f"{repo}: no such repository at {constants.ENDPOINT} (a private one needs "
            "`hf auth login`)"
        ) from None
    except errors.HFValidationError:
        raise UnknownModelError(f"{repo}: not a repository's name (organisation/name)") from None
    except Exception as error:  # the HTTP library beneath, hence its errors, depends on the version
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelUnavailableError(
            f"{repo}: {names[0]} was not downloaded ({reason}); run again to go on where it stopped"
        ) from error


@functools.cache  # only success is kept: an exception is not
def _reach(endpoint: str) -> None:
    """Raises ModelUnavailableError unless a server (or a proxy) answers within `REACH_SECONDS`.

    Looking a name up cannot be interrupted, so a thread does all of it; being a daemon, it does
    not keep the interpreter from exiting.
    """
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint, method="HEAD")
            urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
        except urllib.error.HTTPError as error:
            # Any server's answer will do; a gateway's says that there was none.
            answers.put(f"HTTP {error.code}" if error.code in (502, 503, 504) else "")
        except Exception as error:
            answers.put(str(getattr(error, "reason", error)) or type(error).__name__)
        else:
            answers.put("")

    threading.Thread(target=ask, name="clipcls-reach", daemon=True).start()
    try:
        reason = answers.get(timeout=REACH_SECONDS)
    except queue.Empty:
        reason = f"no answer in {REACH_SECONDS:g} s"
    if reason:
        raise ModelUnavailableError(f"{endpoint} cannot be reached ({reason})")


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """huggingface_hub's bars (which appear on terminals only), or none."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
