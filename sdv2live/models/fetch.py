"""Models from the hub, and TAEHV from its own address, into a store. Owns: what a server is asked and believed.

The connection, its retries, `HF_ENDPOINT`, token and proxy are huggingface_hub's. Its `hf_hub_download` is not used: it
begins each file anew in each process, and a file has 11 GB here; so its `http_get`, which takes up a file where it
stopped, writes into `NAME.part`, which gets its name once every byte is there and the checksum is right.

Blocks for as long as it takes. It stops where an exception comes out of `watch`, or Ctrl-C; nothing is lost by that.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from sdv2live import __version__
from sdv2live.errors import UserError, one_line
from sdv2live.models.manifest import MB, Checksum, Model, command, size_text
from sdv2live.models.store import DAMAGED, PART, Entry, State, Store, checksum_of, with_ending
from sdv2live.progress import Reading, Transfer

# What stays free on the drive: a system without any room at all has other troubles.
RESERVE_BYTES = 500 * MB
# The library keeps so much in memory before it is written: what a broken connection costs, and how often progress is
# told. Its 10 MiB would never get through a line that breaks every few seconds.
constants.DOWNLOAD_CHUNK_SIZE = 1 << 20

Say = Callable[[str], None]
Watch = Callable[[str, Model, Reading], None]  # "fetching" or "checking", what, how far


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as its server describes it now."""

    model: Model
    url: str
    headers: dict[str, str]
    revision: str
    bytes: int
    checksum: Checksum


def fetch(models: Iterable[Model], store: Store, *, say: Say, watch: Watch) -> None:
    """Bring what is missing of these models. What lies there, put there by hand too, is left as it is.

    The store has to be locked. No server is asked where nothing is missing. Raises UserError.
    """
    wanted = []
    for found in map(store.look, models):
        if found.state == State.DAMAGED and found.path.suffix != DAMAGED:
            say(f"{found.path} is not as long as it was when it was fetched: it is fetched again.")
            store.set_aside(found.path)
        if found.state not in (State.HERE, State.BY_HAND):
            wanted.append(found.model)
    if not wanted:
        return
    revisions: dict[str, str] = {}
    with _library_speaks(say):
        remotes = [_ask(model, store, revisions) for model in wanted]
        done = {remote.model.name: _size(_part_of(remote, store)) for remote in remotes}
        missing = sum(remote.bytes - min(done[remote.model.name], remote.bytes) for remote in remotes)
        store.check_room(missing + RESERVE_BYTES, f"fetching {', '.join(model.name for model in wanted)}")
        transfer = Transfer({remote.model.name: remote.bytes for remote in remotes}, done)
        for remote in remotes:
            _fetch_one(remote, store, transfer, watch)


# ---- what a server says of a file --------------------------------------------------------------------------------


def _ask(model: Model, store: Store, revisions: dict[str, str]) -> Remote:
    """revisions: repository -> the commit that was found for it in this run; added to."""
    revision = revisions.get(model.repository) or store.revision_of(model)
    token = False if model.address else None  # the hub's token is nobody else's business
    ask = partial(
        get_hf_file_metadata,
        _url(model, revision),
        token=token,
        library_name="sdv2live",
        library_version=__version__,
    )
    try:
        try:
            said = ask(retry_on_errors=False)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if not _may_pass(error):
                raise
            said = ask(retry_on_errors=True)
    except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
        raise _refused(model, error, store) from None
    commit = revision if model.address else said.commit_hash or ""
    if said.size is None or not (model.address or re.fullmatch("[0-9a-f]{40}", commit)):
        raise UserError(
            f"what answers for {model.what} at {_host(model)} is not {model.site} (a log-in page of the network, "
            "perhaps): open a web page in a browser to see, and try again."
        )
    stated = _stated(said.etag) if not model.address else model.checksum
    checksum = model.checksum or stated
    if checksum is None or (stated is not None and stated.kind == checksum.kind and stated != checksum):
        raise UserError(
            f"{_host(model)} states {'no' if stated is None else 'another'} checksum for {model.path} of "
            f"{model.repository}{'' if stated is None else ' than the file has that we know'}, so that it was not "
            "fetched: unset HF_ENDPOINT if it names a mirror, or look for a newer sdv2live."
        )
    if not model.address:
        revisions[model.repository] = commit
    headers = build_hf_headers(token=token, library_name="sdv2live", library_version=__version__)
    # As it is, so that positions in it are positions in the file.
    headers["Accept-Encoding"] = "identity"
    return Remote(model, _url(model, commit), headers, commit, said.size, checksum)


def _may_pass(error: Exception) -> bool:
    """Whether to try again at once. Where nobody is there, half a minute of tries would only hide that."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return not isinstance(error, (httpx2.ConnectError, httpx2.UnsupportedProtocol))


def _url(model: Model, revision: str) -> str:
    if model.address:
        return model.address.format(revision=revision, path=model.path)
    return hf_hub_url(model.repository, model.path, revision=revision)


def _host(model: Model) -> str:
    return urlsplit(_url(model, "main")).netloc


def _stated(etag: str | None) -> Checksum | None:
    """The hub's ETag is the sha256 of a large file, and what git has for a small one."""
    if re.fullmatch("[0-9a-f]{64}", etag or ""):
        return Checksum("sha256", etag or "")
    return Checksum("git-sha1", etag or "") if re.fullmatch("[0-9a-f]{40}", etag or "") else None


# ---- its bytes ---------------------------------------------------------------------------------------------------


class _TooMuch(Exception):
    """More bytes come than the file has."""


class _BeganAnew(Exception):
    """A server was asked for the rest of a file and sends something from its start."""


class _PartFile(io.BufferedWriter):
    def truncate(self, pos: int | None = None, /) -> int:
        """http_get does this where a server begins anew. It may be a web page: nothing is given away for that."""
        raise _BeganAnew


class _Bar:
    """What http_get takes for a progress bar."""

    def __init__(self, most: int, tell: Callable[[int], None], *, initial: int, **_: object) -> None:
        self._done, self._most, self._tell = initial, most, tell

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """Called before the bytes are written."""
        self._done += count
        if self._done > self._most:
            raise _TooMuch
        self._tell(self._done)


def _part_of(remote: Remote, store: Store) -> Path:
    return with_ending(store.folder / remote.model.place, PART)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fetch_one(remote: Remote, store: Store, transfer: Transfer, watch: Watch) -> None:
    model, part = remote.model, _part_of(remote, store)
    place = store.folder / model.place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        store.pin(model, remote.revision)
        while True:
            was_there = _download(remote, part, store, partial(_watch_bytes, remote, transfer, watch))
            found = checksum_of(part, remote.checksum.kind, _watch_check(remote, watch))
            if found == remote.checksum:
                break
            part.unlink()
            if not was_there:
                raise UserError(
                    f"{model.path} of {model.repository} came with wrong bytes from {_host(model)} (its {found.kind} "
                    f"is {found.digest[:12]}…, not {remote.checksum.digest[:12]}…), and was thrown away: try again, "
                    "on another network if it happens again."
                )
            # Its beginning may be that of another version: once more, from the start.
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        # Noted before it has its name: a file that has its name and no entry would be somebody else's.
        store.note(place, Entry(model.repository, remote.revision, remote.bytes, remote.checksum))
        part.replace(place)
        with_ending(place, DAMAGED).unlink(missing_ok=True)
    except OSError as error:
        raise store.failed("written", error) from None


def _watch_bytes(remote: Remote, transfer: Transfer, watch: Watch, done: int) -> None:
    watch("fetching", remote.model, transfer.at(remote.model.name, done))


def _watch_check(remote: Remote, watch: Watch) -> Callable[[int], None]:
    name = remote.model.name
    transfer = Transfer({name: remote.bytes}, {})
    return lambda done: watch("checking", remote.model, transfer.at(name, done))


def _download(remote: Remote, part: Path, store: Store, tell: Callable[[int], None]) -> bool:
    """The rest of the file into `part`; -> whether something of an earlier run was there. Raises UserError, OSError."""
    was_there = _size(part) > 0
    if _size(part) > remote.bytes:
        part.unlink()
    while (start := _size(part)) < remote.bytes:
        try:
            with _PartFile(io.FileIO(part, "ab")) as file:
                http_get(
                    remote.url,
                    file,
                    resume_size=start,
                    headers=remote.headers,
                    expected_size=remote.bytes,
                    tqdm_class=cast(Any, partial(_Bar, remote.bytes, tell)),
                )
        except httpx2.TransportError as error:
            # The library tries again where nothing comes. As long as each try brings something, it goes on.
            if _size(part) <= start:
                raise _refused(remote.model, error, store) from None
        except httpx2.HTTPError as error:
            raise _refused(remote.model, error, store) from None
        except OSError as error:
            if error.errno is not None:
                raise
            _cut(part, start)  # the answer was whole and is not this file: a web page, say
            raise _wrong_answer(remote, "another length than it stated", store) from None
        except (_TooMuch, ValueError):
            _cut(part, start)
            raise _wrong_answer(remote, "more than it stated", store) from None
        except _BeganAnew:
            raise UserError(
                f"{_host(remote.model)} does not go on with {remote.model.path} where it stopped, at "
                f"{size_text(start)}: try again, or begin anew after "
                f"{command('remove', remote.model.name, store.folder)}."
            ) from None
    return was_there


def _cut(part: Path, size: int) -> None:
    if _size(part) > size:
        os.truncate(part, size)


# ---- what is said when it fails ----------------------------------------------------------------------------------


def _wrong_answer(remote: Remote, what: str, store: Store) -> UserError:
    return UserError(
        f"{_host(remote.model)} sent {what} for {remote.model.path} of {remote.model.repository} (a log-in page of the "
        f"network, perhaps): open a web page in a browser to see, and try again{_kept(remote.model, store)}."
    )


def _kept(model: Model, store: Store) -> str:
    size = _size(with_ending(store.folder / model.place, PART))
    return f" (the {size_text(size)} that are here are kept)" if size else ""


def _refused(model: Model, error: Exception, store: Store) -> UserError:
    """The sentence for what a server or the network answered."""
    file, host, again = f"{model.path} of {model.repository}", _host(model), f"try again{_kept(model, store)}"
    if isinstance(error, OfflineModeIsEnabled):
        return UserError(
            f"{model.what} is not in {store.folder} and nothing may be fetched, because HF_HUB_OFFLINE is set: unset "
            f"it, or put {model.place} there."
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        page = model.address or f"{constants.ENDPOINT}/{model.repository}"
        match status:
            case 401 | 403:
                what = f"refuses {file} ({status})"
                do = f"open {page}, ask for access if it says so, then `hf auth login` or set HF_TOKEN, and {again}"
            case 404:
                what = f"has no {file} ({status})"
                do = f"look at {page} for where it is now, and put {model.place} into {store.folder} by hand"
            case 429:
                what = f"gets too many requests from here ({status})"
                do = f"wait some minutes, or `hf auth login` for more of them, and {again}"
            case _ if status >= 500:
                what = f"cannot give {file} now ({status})"
                do = f"wait some minutes and {again}"
            case _:
                what = f"does not give {file} ({status})"
                do = again
        return UserError(f"{host} {what}: {do}.")
    why = one_line(error)[:120]
    if isinstance(error, httpx2.ProxyError):
        do = "check HTTPS_PROXY"
    elif "CERTIFICATE_VERIFY_FAILED" in why:
        do = "if this network reads along with a certificate of its own, name that in SSL_CERT_FILE"
    elif isinstance(error, httpx2.UnsupportedProtocol):
        do = "HF_ENDPOINT has to begin with https://"
    else:
        do = "check the network connection, and HTTPS_PROXY where there is a proxy"
    return UserError(
        f"{file} cannot be fetched, {host} cannot be reached ({why}): {do}, and {again}; or fetch on "
        f"another machine, with the same command, and copy its models folder to {store.folder}."
    )


class _Speaker(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Why the library tries again, without addresses, which are long and may be signed."""
        words = record.getMessage()
        match = re.match(r"(?:Error while downloading from \S+: )?(.*?)(?: thrown while|$)", words, re.MULTILINE)
        if match and not match[1].startswith("Retrying"):
            self._say(f"{match[1].strip(chr(39))[:120]}: trying again …")


@contextmanager
def _library_speaks(say: Say) -> Iterator[None]:
    """Meanwhile the library's warnings go to `say`; it would write them itself."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [_Speaker(say)], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before
