"""Fetching, in this process, from a hub on loopback that behaves and misbehaves. Nothing half-written gets a name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from sdv2live import cli
from sdv2live.models.manifest import MODELS, find
from sdv2live.models.store import PART, State, Store, with_ending
from tests.models.hub import COMMIT, HTML, NEXT_COMMIT, Hub

pytestmark = pytest.mark.usefixtures("naps")
WAN = "wan-1.3b"


class Here:
    """A models folder and the command line on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.store = Store(folder)
        self.said = self.printed = ""

    def run(self, *arguments: str) -> int:
        code = cli.main(["models", *arguments, "--folder", str(self.folder)])
        captured = self._capsys.readouterr()
        self.said, self.printed = captured.err, captured.out
        return code

    def sentence(self) -> str:
        """The last line on standard error: one sentence."""
        assert "Traceback" not in self.said
        last = self.said.strip().splitlines()[-1]
        assert last.startswith("sdv2live: ") and last.endswith(".") and ". " not in last.replace("…", ""), last
        return last

    def state(self, name: str) -> State:
        return self.store.look(MODELS[name]).state

    def part(self, name: str) -> Path:
        return with_ending(self.folder / MODELS[name].place, PART)

    def holds(self, name: str, hub: Hub) -> bool:
        path = find(MODELS[name], self.folder)
        return path is not None and path.read_bytes() == hub.files[MODELS[name].path]


@pytest.fixture
def here(tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path / "models", capsys)


# ---- what works --------------------------------------------------------------------------------------------------


def test_an_engine_is_fetched_with_all_that_it_needs_and_found_in_one_folder(here: Here, hub: Hub) -> None:
    assert here.run("get", WAN) == 0
    for name in ("tokenizer", "taehv", "wan-vae", "text-encoder", WAN):
        assert here.state(name) == State.HERE and here.holds(name, hub), name
    assert here.state("wan-14b") == State.MISSING
    assert here.run("path", WAN) == 0 and here.printed.strip() == str(here.folder)
    assert here.run("verify", WAN) == 0 and here.printed.count(": as fetched, ") == 5
    assert not list(here.folder.rglob("*" + PART))


def test_what_is_here_is_not_asked_for_again_and_needs_no_network(
    here: Here, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert here.run("get", WAN) == 0
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert here.run("get", WAN) == 0 and here.run("verify") == 0 and here.run("list") == 0
    assert not hub.requests


def test_the_revision_of_the_first_fetch_holds_until_the_model_is_removed(here: Here, hub: Hub) -> None:
    assert here.run("get", WAN) == 0
    hub.history[COMMIT], hub.commit = dict(hub.files), NEXT_COMMIT
    old = hub.files[MODELS[WAN].path]
    hub.files = {**hub.files, MODELS[WAN].path: b"new" + old, MODELS["wan-14b"].path: b"new" + old}
    (here.folder / MODELS[WAN].place).unlink()
    assert here.run("get", WAN) == 0
    assert (here.folder / MODELS[WAN].place).read_bytes() == old, "of the commit that was first seen"
    assert f"/{COMMIT}/" in hub.asked("HEAD", "hub")[-1].path
    assert here.run("remove", WAN) == 0 and here.run("get", WAN) == 0
    assert here.holds(WAN, hub), "of the newest commit"


def test_the_token_goes_to_the_hub_and_to_nobody_else(here: Here, hub: Hub) -> None:
    assert here.run("get", WAN) == 0
    assert {request.headers.get("authorization") for request in hub.asked("HEAD", "hub")} == {"Bearer hf_of_this_test"}
    elsewhere = [request for request in hub.requests if request.server == "cdn"]
    assert len(elsewhere) >= 5 and not any("authorization" in request.headers for request in elsewhere)


def test_a_file_put_there_by_hand_is_used_where_it_lies_in_the_references_layout_too(here: Here, hub: Hub) -> None:
    by_hand = here.folder / "wan_models" / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"somebody's")
    assert here.run("get", WAN) == 0
    assert not [request for request in hub.requests if "VAE" in request.path]
    assert here.state("wan-vae") == State.BY_HAND
    assert here.run("path", "wan-vae") == 0 and here.printed.strip() == str(by_hand)
    assert here.run("remove", WAN) == 0
    assert "left" in here.printed and by_hand.read_bytes() == b"somebody's"
    assert not list(here.folder.rglob("*.safetensors"))


def test_removing_an_engine_leaves_what_another_one_needs(here: Here, hub: Hub) -> None:
    assert here.run("get", "wan-14b") == 0 and here.run("get", WAN) == 0
    assert here.run("remove", WAN) == 0
    assert here.state(WAN) == State.MISSING and here.run("verify", "wan-14b") == 0
    assert here.run("remove", "wan-14b") == 0
    assert sorted(os.listdir(here.folder)) == ["fetched.json", "fetching.lock"], "empty folders are gone too"


def test_progress_goes_to_standard_error_and_as_json_to_standard_output(here: Here, hub: Hub) -> None:
    assert here.run("get", "wan-vae", "--json") == 0
    steps = [json.loads(line) for line in here.printed.splitlines()]
    assert {step["doing"] for step in steps} == {"fetching", "checking"}
    assert steps[-1]["done"] == steps[-1]["total"] == len(hub.files[MODELS["wan-vae"].path])
    assert here.run("list", "--json") == 0
    listed = {model["name"]: model for model in json.loads(here.printed)["models"]}
    assert listed["wan-vae"]["state"] == "here" and listed[WAN]["state"] == "missing"


# ---- a connection that breaks ------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_is_taken_up_again_in_the_middle(here: Here, hub: Hub) -> None:
    hub.fails("GET cdn", "cut", "cut")
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)
    ranges = [request.range for request in hub.asked("GET", "cdn")]
    assert len(ranges) == 3 and ranges[0] is None and all(re.fullmatch(r"bytes=[1-9]\d+-", r or "") for r in ranges[1:])


def test_a_connection_that_stalls_is_given_up_and_taken_up_again(here: Here, hub: Hub) -> None:
    hub.fails("GET cdn", "stall")
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)
    assert len(hub.asked("GET", "cdn")) == 2


def test_a_line_that_never_gets_through_ends_in_a_sentence_and_keeps_what_came(here: Here, hub: Hub) -> None:
    hub.fails("GET cdn", "cut", *["hang up"] * 40)
    assert here.run("get", "wan-vae") == 2
    assert "cannot be reached" in here.sentence() and "are here are kept" in here.sentence()
    came = here.part("wan-vae").stat().st_size
    assert came >= 1_000_000 and here.state("wan-vae") == State.PARTLY
    hub.faults.clear()
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)
    assert hub.asked("GET", "cdn")[-1].range == f"bytes={came}-"


def test_a_part_of_another_version_is_thrown_away_and_fetched_anew(here: Here, hub: Hub) -> None:
    part = here.part("wan-vae")
    part.parent.mkdir(parents=True)
    for left in (b"other bytes" * 1000, hub.files[MODELS["wan-vae"].path] + b"and more"):
        part.write_bytes(left)
        assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)
        assert here.run("remove", "wan-vae") == 0


# ---- a server that misbehaves ------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "401": ("HEAD hub", ("401",), r"refuses .*\(401\): open http.*hf auth login"),
    "403": ("HEAD hub", ("403",), r"refuses .*\(403\): open http.*ask for access"),
    "404": ("HEAD hub", ("404",), r"has no .*\(404\): look at http.*by hand"),
    "429 for ever": ("HEAD hub", ("429", "always"), r"too many requests .*\(429\): wait"),
    "503 for ever": ("HEAD hub", ("503", "always"), r"cannot give .* now \(503\): wait"),
    "a log-in page for the metadata": ("HEAD hub", ("html",), r"is not Hugging Face \(a log-in page"),
    "a hub that hangs up": ("HEAD hub", ("hang up", "always"), r"cannot be reached .*check the network"),
    "401 for the bytes": ("GET cdn", ("401",), r"refuses .*\(401\)"),
    "403 for the bytes": ("GET cdn", ("403",), r"refuses .*\(403\)"),
    "404 for the bytes": ("GET cdn", ("404",), r"has no .*\(404\)"),
    "429 for the bytes": ("GET cdn", ("429", "always"), r"too many requests .*\(429\)"),
    "500 for the bytes": ("GET cdn", ("500",), r"cannot give .* now \(500\)"),
    "a log-in page for the bytes": ("GET cdn", ("html", "always"), r"sent another length than it stated .*log-in page"),
    "fewer bytes than stated": ("GET cdn", ("shorter", "always"), r"sent another length than it stated"),
    "more bytes than stated": ("GET cdn", ("longer", "always"), r"sent more than it stated"),
    "wrong bytes": ("GET cdn", ("wrong bytes", "always"), r"came with wrong bytes .*sha256 is .*thrown away"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_bad_answer_ends_in_one_sentence_and_leaves_no_model(case: str, here: Here, hub: Hub) -> None:
    which, faults, expected = ANSWERS[case]
    hub.fails(which, *faults)
    assert here.run("get", "text-encoder") == 2
    assert re.search(expected, here.sentence()), here.sentence()
    assert find(MODELS["text-encoder"], here.folder) is None and here.run("path", "text-encoder") == 2
    assert f"`sdv2live models get text-encoder --folder {here.folder}`" in here.sentence()
    hub.faults.clear()
    assert here.run("get", "text-encoder") == 0 and here.holds("text-encoder", hub)


@pytest.mark.parametrize("fault", ["429", "500", "502", "503", "504", "hang up"])
def test_what_passes_by_itself_is_waited_for(fault: str, here: Here, hub: Hub, naps: list[float]) -> None:
    hub.fails("HEAD hub", fault, fault)
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)
    assert naps and "trying again" in here.said


@pytest.mark.parametrize("fault", ["html", "shorter", "longer", "no ranges", "500", "hang up"])
def test_no_bad_answer_costs_what_was_fetched_before(fault: str, here: Here, hub: Hub) -> None:
    content = hub.files[MODELS["wan-vae"].path]
    part = here.part("wan-vae")
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:2_000_000])
    hub.fails("GET cdn", fault, "always")
    assert here.run("get", "wan-vae") == 2
    here.sentence()
    assert part.read_bytes() == content[:2_000_000]
    hub.faults.clear()
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)


def test_a_hub_that_states_another_hash_than_we_know_is_not_believed(here: Here, hub: Hub) -> None:
    path = MODELS["wan-vae"].path
    hub.files[path] = bytes(reversed(hub.files[path]))
    assert here.run("get", "wan-vae") == 2
    assert "another checksum" in here.sentence() and "HF_ENDPOINT" in here.sentence()
    assert not hub.asked("GET", "hub") and find(MODELS["wan-vae"], here.folder) is None


def test_a_small_file_is_checked_by_what_git_calls_it(here: Here, hub: Hub) -> None:
    hub.fails("GET hub", "wrong bytes", "always")
    assert here.run("get", "tokenizer") == 2
    assert "came with wrong bytes" in here.sentence() and "git-sha1" in here.sentence()


def test_nothing_listens(here: Here, hub: Hub, monkeypatch: pytest.MonkeyPatch, naps: list[float]) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    assert here.run("get", "wan-vae") == 2
    assert "cannot be reached" in here.sentence() and "copy its models folder to" in here.sentence()
    assert not naps, "it is said at once"


def test_offline_mode_is_named(here: Here, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert here.run("get", "wan-vae") == 2
    assert "HF_HUB_OFFLINE is set: unset it" in here.sentence()


# ---- the drive ---------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_a_byte_is_fetched(
    here: Here, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "free_bytes", lambda _: 600_000)
    assert here.run("get", WAN) == 2
    assert re.search(r"fetching .* needs 5\d\d\.\d MB and .* has 600 kB free: make .* of room", here.sentence())
    assert not hub.asked("GET", "cdn") and not hub.asked("GET", "hub")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a drive that is always full")
def test_a_drive_that_fills_up_meanwhile(here: Here, hub: Hub) -> None:
    part = here.part("wan-vae")
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    assert here.run("get", "wan-vae") == 2
    assert "is full" in here.sentence() and "make room and start again" in here.sentence()
    assert find(MODELS["wan-vae"], here.folder) is None
    part.unlink()
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)


def test_a_folder_that_cannot_be_made_or_is_none(here: Here, hub: Hub, tmp_path: Path) -> None:
    here.folder = tmp_path / "file" / "models"
    (tmp_path / "file").write_text("no folder")
    for action in ("get", "verify", "remove", "path"):
        assert here.run(action, "wan-vae") == 2
        assert "--folder" in here.sentence()
    here.folder = tmp_path / "file"
    assert here.run("get", "wan-vae") == 2 and "--folder" in here.sentence()
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_that_cannot_be_locked(here: Here, hub: Hub) -> None:
    (here.folder / "fetching.lock").mkdir(parents=True)
    for action in ("get", "verify", "remove"):
        assert here.run(action, "wan-vae") == 2
        assert "cannot be locked" in here.sentence() and "--folder" in here.sentence()


# ---- what becomes of it later ------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found_set_aside_and_fetched_again(here: Here, hub: Hub) -> None:
    assert here.run("get", WAN) == 0
    path = here.folder / MODELS["text-encoder"].place
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)
    assert here.run("verify") == 2
    assert "text-encoder: damaged" in here.printed and here.printed.count("as fetched") == 4
    assert find(MODELS["text-encoder"], here.folder) is None and here.state("text-encoder") == State.DAMAGED
    assert here.run("get", WAN) == 0 and here.holds("text-encoder", hub)
    assert not list(here.folder.rglob("*.damaged"))


def test_a_file_that_lost_its_end_is_fetched_again(here: Here, hub: Hub) -> None:
    assert here.run("get", "wan-vae") == 0
    os.truncate(here.folder / MODELS["wan-vae"].place, 1000)
    assert here.state("wan-vae") == State.DAMAGED
    assert here.run("get", "wan-vae") == 0 and here.holds("wan-vae", hub)


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"files": []}', b'{"files": {"a": {"b": 1}}}', b"\xff" * 9])
def test_a_record_that_cannot_be_read_costs_the_checks_and_not_the_models(record: bytes, here: Here, hub: Hub) -> None:
    assert here.run("get", "wan-vae") == 0
    (here.folder / "fetched.json").write_bytes(record)
    assert here.state("wan-vae") == State.BY_HAND
    assert here.run("get", "wan-vae") == 0 and here.run("verify", "wan-vae") == 0
    assert "as released" in here.printed, "the manifest still knows its hash"
    assert here.run("get", "tokenizer") == 0 and here.state("tokenizer") == State.HERE


def test_a_released_file_put_there_by_hand_is_compared_with_the_manifest(here: Here, hub: Hub) -> None:
    path = here.folder / MODELS["wan-vae"].place
    path.parent.mkdir(parents=True)
    path.write_bytes(HTML)
    assert here.run("verify") == 2
    assert (
        "not the released file" in here.printed and f"take {path} away" in here.sentence() and path.read_bytes() == HTML
    ), "what is not ours stays"
