"""The hub, through huggingface_hub: what a repository holds at a revision, and the bytes of its files.

huggingface_hub's own downloads begin anew after a break and compare sizes only; `http_get`, which they are made of,
goes on where a file ends. It is plain HTTP: the hub serves files kept in Xet that way too. The library is imported when
it is needed; it finds and sends the token of an account itself: nothing here reads or shows one.
"""

import errno
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from enginebench_models.errors import DownloadFailed, NoRoom

LIST_SECONDS = 30.0
DENIED = (401, 403)
COMMIT = re.compile(r"[0-9a-f]{40}")
LATER = "What has arrived is kept: the same command goes on from there."
WITHOUT = (
    "Without a network: copy the files here and give --model their path (a GGUF file, or a safetensors directory), or "
    "use --weights synthetic."
)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository. `sha256` is known of large files (Git LFS); `git_id` is the SHA-1 of the git object."""

    name: str
    size_bytes: int
    sha256: str | None
    git_id: str | None


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]


def listing(repository: str, revision: str | None, endpoint: str | None = None, licence: str | None = None) -> Listing:
    """At a revision, or at the head of the main branch. `endpoint`: another hub. Raises DownloadFailed."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - a quarter of a second

    with told(repository, revision, endpoint, licence):
        found = HfApi(endpoint=endpoint).model_info(
            repository, revision=revision, files_metadata=True, timeout=LIST_SECONDS
        )
    files = {
        each.rfilename: RemoteFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None, each.blob_id)
        for each in found.siblings or []
    }
    if found.sha is None or not COMMIT.fullmatch(found.sha):  # it becomes part of a folder's name
        raise DownloadFailed(f"The hub names no commit of {repository}: it cannot be pinned.")
    return Listing(repository, found.sha, files)


def fetch(
    source: Listing,
    file: RemoteFile,
    part: Path,
    on_bytes: Callable[[int], None] = lambda done: None,
    endpoint: str | None = None,
) -> None:
    """Append to `part` what it lacks of `file`; `on_bytes` is told how much there is. Raises what `told` tells."""
    from huggingface_hub import hf_hub_url  # noqa: PLC0415
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings hold signed addresses
    # A compressed answer cannot be gone on with: its ranges are those of other bytes.
    headers = {**build_hf_headers(), "accept-encoding": "identity"}
    url = hf_hub_url(source.repository, file.name, revision=source.commit, endpoint=endpoint)
    with opened_to_append(part) as out:
        http_get(
            url,
            out,
            resume_size=out.tell(),
            headers=headers,
            expected_size=file.size_bytes,
            displayed_filename=file.name,
            tqdm_class=cast("Any", lambda **facts: Meter(facts["initial"], on_bytes)),
        )


def opened_to_append(part: Path) -> BinaryIO:
    return part.open("ab")


class Meter:
    """What http_get needs of a tqdm bar."""

    def __init__(self, initial: int, on_bytes: Callable[[int], None]) -> None:
        self.done = initial
        self.on_bytes = on_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n_bytes: int) -> None:
        self.done += n_bytes
        self.on_bytes(self.done)


@contextmanager
def told(
    repository: str, revision: str | None, endpoint: str | None = None, licence: str | None = None
) -> Iterator[None]:
    """Whatever goes wrong becomes a DownloadFailed or NoRoom that says what to do."""
    import httpx2  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except RevisionNotFoundError:
        raise DownloadFailed(
            f"{repository} has no revision {revision}: its author removed it. Download it by hand and give its path."
        ) from None
    except RepositoryNotFoundError:  # gated ones too
        raise DownloadFailed(denied(repository, endpoint, licence)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in DENIED:
            raise DownloadFailed(denied(repository, endpoint, licence)) from None
        raise DownloadFailed(f"The hub answered {status} for {repository}. {LATER}") from None
    except OfflineModeIsEnabled:
        raise DownloadFailed(f"HF_HUB_OFFLINE is set, so that nothing is downloaded. {WITHOUT}") from None
    except httpx2.HTTPError as error:
        raise DownloadFailed(
            f"The hub ({address(endpoint)}) cannot be reached: {reason(error)}. {LATER} {WITHOUT}"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoRoom(f"The disk is full. {LATER} Make room first.") from None
        raise DownloadFailed(f"{repository}: {reason(error)} {LATER}") from None


def reason(error: Exception) -> str:
    """The first line of what it says, which may be nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


def denied(repository: str, endpoint: str | None, licence: str | None) -> str:
    """The hub answers alike for what is gated, private or not there at all."""
    terms = f" ({licence})" if licence else ""
    return (
        f"The hub does not give {repository} to you: it is gated, private, or gone. If it is gated: open "
        f"{address(endpoint)}/{repository} in a browser, accept the licence{terms}, make an access token there, log in "
        "here with `uv run hf auth login`, and pull again. The token stays with huggingface_hub; no engine gets it."
    )


def address(endpoint: str | None) -> str:
    from huggingface_hub import constants  # noqa: PLC0415

    return endpoint or constants.ENDPOINT
