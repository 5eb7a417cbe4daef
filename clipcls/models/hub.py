"""Files of the Hugging Face Hub, from its cache on this machine or downloaded.

huggingface_hub does the work, with its cache (HF_HOME, HF_HUB_CACHE), endpoint (HF_ENDPOINT),
proxies, certificates, token and retries. Two things are added: a file on this machine costs no
request, and a download that makes no progress is abandoned in time (`download.py`).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from clipcls.errors import ModelUnavailableError, UnknownModelError
from clipcls.models.download import Download, hub_constants
from clipcls.models.facts import ModelFacts

# How long a download may make no progress if nobody asked for it by name.
STALL_SECONDS = 3.0

# How long such a download is not retried after a failure.
REMEMBERED_SECONDS = 300.0


def cached(repo: str, *names: str) -> Path | None:
    """The first of these files of a repository that is on this machine; no network.

    Reads the documented layout of the hub's cache itself, since importing huggingface_hub's own
    look-up takes 0.1 s, a quarter of a run with nothing new to compute.
    """
    folder = Path(hub_constants().HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        return next((path for name in names if (path := snapshot / name).is_file()), None)
    except (OSError, ValueError):
        return None


def fetch(
    repo: str,
    *names: str,
    progress: bool = True,
    impatient: bool = False,
    offline: bool = False,
) -> Path | None:
    """The first of these files that a repository has, downloaded if it is not on this machine.

    Args:
        repo: `organisation/name` of a model repository.
        names: file names in order of preference.
        progress: show a bar for a download if stderr is a terminal.
        impatient: give up after `STALL_SECONDS` without progress, and do not try within
            `REMEMBERED_SECONDS` of a failure; otherwise wait as long as HF_HUB_ETAG_TIMEOUT and
            HF_HUB_DOWNLOAD_TIMEOUT say.
        offline: download nothing, as if HF_HUB_OFFLINE were set.

    Returns:
        the file's path in the hub's cache, or None if the repository has none of them.

    Raises:
        UnknownModelError: the repository does not exist.
        ModelUnavailableError: the file is not on this machine and cannot be downloaded now.
    """
    if path := cached(repo, *names):
        return path
    constants = hub_constants()
    from huggingface_hub import errors

    missing = f"{repo}: {names[0]} is not on this machine and"
    if offline:
        raise ModelUnavailableError(
            f"{missing.removesuffix(' and')}; `clipcls models get` downloads a model"
        )
    if constants.HF_HUB_OFFLINE:
        raise ModelUnavailableError(
            f"{missing} HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it once to "
            f"download (looked in {constants.HF_HUB_CACHE})"
        )
    if not constants.ENDPOINT.startswith(("http://", "https://")):
        raise ModelUnavailableError(
            f"{missing} HF_ENDPOINT is not a URL: {constants.ENDPOINT}; write https:// before it"
        )
    facts, failed = ModelFacts(), _failure_key(constants.ENDPOINT)
    known = facts.get(failed) if impatient else None
    if known and 0 <= (passed := time.time() - known["time"]) < REMEMBERED_SECONDS:
        raise ModelUnavailableError(
            f"{missing} {passed:.0f} s ago {known['reason']}; the next try is in "
            f"{REMEMBERED_SECONDS - passed:.0f} s, or at once if you name the model (as in --model "
            "base)"
        )
    for name in names:
        download = Download(repo, name, progress, STALL_SECONDS if impatient else None)
        try:
            path = download.result()
        except errors.GatedRepoError:
            raise ModelUnavailableError(
                f"{repo}: gated; accept its terms at {constants.ENDPOINT}/{repo}, then run "
                "`hf auth login`"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UnknownModelError(
                f"{repo}: no such repository at {constants.ENDPOINT} (a private one needs "
                "`hf auth login`)"
            ) from None
        except errors.HFValidationError:
            raise UnknownModelError(
                f"{repo}: not the name of a repository (organisation/name)"
            ) from None
        except errors.RemoteEntryNotFoundError:
            continue
        except Exception as error:  # the HTTP library and its errors depend on the version
            failure, cure = download.explain(error)
            if failure is None:
                raise ModelUnavailableError(f"{repo}: {names[0]} {cure}") from error
            if impatient:
                facts.set(failed, {"time": time.time(), "reason": failure})
            raise ModelUnavailableError(f"{missing} {failure}; {cure}") from error
        facts.delete(failed)
        return path
    facts.delete(failed)
    return None


def _failure_key(endpoint: str) -> str:
    """Names an endpoint and the settings for reaching it: a changed one is tried at once."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.lower().endswith("_proxy") or name.startswith(("HF_", "SSL_"))
    }
    return f"hub {json.dumps([endpoint, settings], sort_keys=True)}"
