"""Presets as a window uses them: saved whole, listed broken or not, renamed, deleted and brought back."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from sdv2live import presets, strict_files
from sdv2live.errors import UserError
from sdv2live.parameters import TABLE, Kind
from sdv2live.paths import presets_dir
from sdv2live.presets import (
    MAX_THUMBNAIL_BYTES,
    MAX_TRASH,
    apply_preset,
    apply_preset_file,
    delete_preset,
    find_preset,
    list_presets,
    load_preset,
    look_of,
    preset_names,
    rename_preset,
    save_preset,
)
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec

ROOT = Path(__file__).parents[2]


def jpeg(width: int = 64, height: int = 48, pad: int = 0) -> bytes:
    """As much of a JPEG as its head: an application segment, then a start of frame."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xe0\x00\x04ab" + frame + b"\0" * pad


def png(width: int = 64, height: int = 48) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of presets, not there yet."""
    monkeypatch.setattr("sdv2live.presets.user_config_dir", lambda: tmp_path / "config")
    return tmp_path / "config" / "presets"


@pytest.fixture
def registry() -> Registry:
    return fresh()


def fresh(engine: str = "pocket") -> Registry:
    registry = Registry()
    registry.set_strictly([("engine.name", engine)], origin="cli")
    engine_spec(registry)
    return registry


WILD: dict[str, Any] = {
    "prompt.text": "Tusche, 墨, नदी",
    "prompt.mix": [["night", 1], ["oil", 0.25]],
    "prompt.transition": 7,
    "steps.list": [700, 500, 300],
    "steps.count": 2,
    "noise.max": 0.3,
    "noise.sensitivity": 0.123456789,
    "noise.mode": "slow",
    "noise.timestep_offset": -25,
    "seed": 2**31 - 1,
    "feedback.amount": 0.4,
    "schedule": "latency",
    "input.filters": "mirror, blur:2.5",
    "output.filters": "grey",
    "sinks.follow_prompt": False,
    "sinks.similarity": -1.0,
    "output.wet": 0.5,
}


def picture_of(registry: Registry) -> dict[str, Any]:
    return {name: registry.get(name) for name, row in TABLE.items() if row.in_preset}


# ---- the look ----


def test_a_saved_look_is_the_same_on_a_fresh_start(own: Path, registry: Registry) -> None:
    registry.set_strictly(list(WILD.items()), origin="gui")
    path = save_preset(registry, "wild")
    assert path == own / "wild.json"
    later = fresh()
    apply_preset(later, "wild")
    assert picture_of(later) == picture_of(registry)
    assert save_preset(later, "again").read_bytes() == path.read_bytes()


def test_a_saved_look_leaves_nothing_of_the_one_before(own: Path, registry: Registry) -> None:
    save_preset(registry, "plain")
    plain = picture_of(registry)
    registry.set_strictly(list(WILD.items()), origin="gui")
    apply_preset(registry, "plain")
    assert picture_of(registry) == plain


@pytest.mark.parametrize("seed", range(8))
def test_any_values_come_back(own: Path, seed: int) -> None:
    """Sliders dragged at random, so that bounds have pushed one another along."""
    draw = random.Random(seed)
    registry = fresh()
    rows = [row for row in TABLE.values() if row.in_preset and row.kind in (Kind.FLOAT, Kind.INT, Kind.BOOL)]
    for _ in range(draw.randrange(1, 30)):
        row = draw.choice(rows)
        low, high = row.minimum or 0.0, row.maximum or 1.0
        registry.set(row.name, draw.uniform(low, high), origin="gui")
        if draw.random() < 0.2:
            registry.set("steps.list", sorted(draw.sample(range(25, 1000), draw.randrange(1, 9)))[::-1], origin="gui")
    save_preset(registry, "drawn")
    later = fresh()
    apply_preset(later, "drawn")
    assert picture_of(later) == picture_of(registry), seed


def test_a_look_is_at_home_on_another_engine(own: Path, registry: Registry) -> None:
    """What was left to the engine is the other engine's there; what was chosen, and its pair, comes along."""
    registry.set("prompt.text", "night", origin="gui")
    save_preset(registry, "night of mine")
    large = fresh("wan-1.3b")
    brought = picture_of(large)
    apply_preset(large, "night of mine")
    assert picture_of(large) == brought | {"prompt.text": "night"}
    assert not large.is_user_set("steps.list")
    registry.set("noise.max", 0.55, origin="gui")
    registry.set("steps.count", 2, origin="gui")
    save_preset(registry, "chosen")
    apply_preset(large, "chosen")
    assert [large.get(name) for name in ("noise.max", "noise.min", "steps.count")] == [0.55, 0.5, 2]


def test_the_file_is_canonical_and_in_the_table_s_order(own: Path, registry: Registry) -> None:
    registry.set("prompt.text", "墨", origin="gui")
    text = save_preset(registry, "order").read_text("utf-8")
    values = json.loads(text)["values"]
    assert list(values) == [name for name in TABLE if name in values] == list(look_of(registry))
    assert "墨" in text and values["noise.max"] is None
    assert "output.bypass" not in values and {"seed", "output.filters"} <= set(values)


def test_a_look_saved_while_frozen_does_not_freeze(own: Path, registry: Registry) -> None:
    registry.set("output.freeze", True, origin="gui")
    save_preset(registry, "held")
    later = fresh()
    apply_preset(later, "held")
    assert not later.get("output.freeze")


# ---- saving ----


def test_a_twin_is_refused_and_overwriting_is_asked_for(own: Path, registry: Registry) -> None:
    save_preset(registry, "Évening")
    for twin in ("Évening", "évening", "ÉVENING", unicodedata.normalize("NFD", "Évening"), "\uff25\u0301vening"):
        with pytest.raises(UserError, match="there is a preset"):
            save_preset(registry, twin)
    with pytest.raises(UserError, match="spelling"):
        save_preset(registry, "évening", overwrite=True)
    registry.set("seed", 77, origin="gui")
    path = save_preset(registry, unicodedata.normalize("NFD", "Évening"), overwrite=True)
    assert load_preset(path)["seed"] == 77 and [p.name for p in own.iterdir()] == ["Évening.json"]


def test_one_s_own_may_hide_a_shipped_one_and_give_way_again(own: Path, registry: Registry) -> None:
    for name in ("night", "Night"):
        with pytest.raises(UserError, match="already"):
            save_preset(registry, name)
    path = save_preset(registry, "night", overwrite=True)
    assert find_preset("night") == path and [p.is_own for p in list_presets() if p.name == "night"] == [True]
    delete_preset("night")
    assert find_preset("night") == presets_dir() / "night.json"


GOOD_NAMES = ["a", "Night 2", "été", "夜", "ночь_1", "हिन्दी", "x" * 64, "v1.2-b", "夜" * 64, "console", "com10"]
BAD_NAMES = [
    "",
    ".hidden",
    " a",
    "a ",
    "a.",
    "a/b",
    "a\\b",
    "..",
    "../x",
    "a\0",
    "a\n",
    "CON",
    "con.a",
    "Lpt1",
    "aux .b",
]
BAD_NAMES += [
    "com0",
    "x" * 65,
    "𠀀" * 60,
    "a:b",
    "a*",
    "a?",
    "a|b",
    "a\u202eb",
    "a\u200b",
    "a\ufe0f",
    "\u0301a",
    "😀",
    "-a",
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_of_all_scripts(own: Path, registry: Registry, name: str) -> None:
    save_preset(registry, name)
    apply_preset(registry, name)
    assert name in preset_names() and find_preset(name).parent == own
    assert [p.is_readable for p in list_presets() if p.is_own] == [True]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(own: Path, registry: Registry, name: str) -> None:
    save_preset(registry, "mine")
    with pytest.raises(UserError, match="no name"):
        save_preset(registry, name)
    with pytest.raises(UserError, match="no name"):
        rename_preset("mine", name)
    with pytest.raises(UserError, match="there is no preset"):
        find_preset(name)
    assert os.listdir(own) == ["mine.json"] and os.listdir(own.parent) == ["presets"]


def test_a_save_that_fails_leaves_the_old_file(own: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_preset(registry, "mine", thumbnail=jpeg())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(strict_files.os, name, full)
            with pytest.raises(UserError, match=r"mine\.json cannot be saved: No space left"):
                save_preset(registry, "mine", overwrite=True)
        assert path.read_bytes() == before and sorted(os.listdir(own)) == ["mine.jpg", "mine.json"]


def test_a_save_that_is_killed_leaves_the_old_file(own: Path, registry: Registry) -> None:
    path = save_preset(registry, "mine")
    before = path.read_bytes()
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from sdv2live import presets\n"
        "from sdv2live.registry import Registry\n"
        "presets.user_config_dir = lambda: Path(sys.argv[1])\n"
        "def wait(*_): print('written', flush=True); time.sleep(60)\n"
        "os.replace = wait\n"
        "registry = Registry(); registry.set('seed', 99, origin='gui')\n"
        "presets.save_preset(registry, 'mine', overwrite=True)\n"
    )
    command = [sys.executable, "-c", code, str(own.parent)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "written\n"
        child.kill()
    (part,) = own.glob(".*.part")
    assert path.read_bytes() == before and json.loads(part.read_text("utf-8"))["values"]["seed"] == 99
    assert [p.name for p in list_presets() if p.is_own] == ["mine"]
    save_preset(registry, "mine", overwrite=True)
    assert part.exists(), "it could be another program's that is writing"
    os.utime(part, (1, 1))
    save_preset(registry, "mine", overwrite=True)
    assert not part.exists()


def test_many_threads_save_and_read(own: Path, registry: Registry) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        mine = fresh()
        mine.set("seed", number, origin="gui")
        try:
            for _ in range(10):
                save_preset(mine, "shared", overwrite=True, thumbnail=jpeg(pad=number))
                assert load_preset(find_preset("shared"))["seed"] in range(4)
                list_presets()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and sorted(os.listdir(own)) == ["shared.jpg", "shared.json"]


# ---- thumbnails ----


def test_a_thumbnail_goes_with_its_look(own: Path, registry: Registry) -> None:
    save_preset(registry, "mine", thumbnail=jpeg())
    (mine,) = [p for p in list_presets() if p.is_own]
    assert mine.thumbnail == own / "mine.jpg" and mine.thumbnail.read_bytes() == jpeg()
    rename_preset("mine", "other")
    assert sorted(os.listdir(own)) == ["other.jpg", "other.json"]
    save_preset(registry, "other", overwrite=True, thumbnail=png())
    assert sorted(os.listdir(own)) == ["other.json", "other.png"]
    save_preset(registry, "other", overwrite=True)
    assert os.listdir(own) == ["other.json"]


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", jpeg(pad=MAX_THUMBNAIL_BYTES), jpeg(60000, 60000), jpeg(0, 4), png(1 << 30, 2), jpeg()[:12]],
    ids=["empty", "GIF", "bytes", "pixels", "no pixels", "PNG pixels", "cut"],
)
def test_a_thumbnail_that_is_none_is_refused_and_not_shown(own: Path, registry: Registry, data: bytes) -> None:
    with pytest.raises(UserError, match="'mine' was not saved: of its thumbnail, "):
        save_preset(registry, "mine", thumbnail=data)
    assert not own.exists()
    save_preset(registry, "mine")
    (own / "mine.jpg").write_bytes(data)
    assert [p.thumbnail for p in list_presets() if p.is_own] == [None]


# ---- deleting and renaming ----


def test_a_deleted_look_comes_back(own: Path, registry: Registry) -> None:
    path = save_preset(registry, "mine", thumbnail=jpeg())
    before = path.read_bytes()
    deleted = delete_preset("mine")
    assert "mine" not in preset_names() and os.listdir(own) == [presets.TRASH]
    assert deleted.restore() == path and path.read_bytes() == before
    assert (own / "mine.jpg").is_file() and not os.listdir(own / presets.TRASH)
    with pytest.raises(UserError, match="has its name now"):
        deleted.restore()
    deleted = delete_preset("mine")
    save_preset(registry, "MINE")
    with pytest.raises(UserError, match="has its name now"):
        deleted.restore()


def test_the_trash_does_not_grow(own: Path, registry: Registry) -> None:
    gone = []
    for _ in range(MAX_TRASH + 3):
        save_preset(registry, "mine")
        gone.append(delete_preset("mine"))
    assert len(os.listdir(own / presets.TRASH)) == MAX_TRASH
    with pytest.raises(UserError, match="cannot come back"):
        gone[0].restore()
    gone[-1].restore()


def test_what_is_shipped_or_missing_is_neither_deleted_nor_renamed(own: Path) -> None:
    for name, words in (("night", "comes with sdv2live"), ("nope", "no preset"), ("../presets/x", "no preset")):
        with pytest.raises(UserError, match=words):
            delete_preset(name)
        with pytest.raises(UserError, match=words):
            rename_preset(name, "new")


def test_renaming(own: Path, registry: Registry) -> None:
    save_preset(registry, "one")
    save_preset(registry, "two", thumbnail=jpeg())
    for taken in ("two", "TWO", "night", "Night"):
        with pytest.raises(UserError, match="already"):
            rename_preset("one", taken)
    assert rename_preset("two", "Two") == own / "Two.json" and (own / "Two.jpg").is_file()
    assert rename_preset("one", "one") == own / "one.json"
    (own / "three.jpg").write_bytes(jpeg())  # of a look that is gone
    rename_preset("one", "three")
    assert sorted(os.listdir(own)) == ["Two.jpg", "Two.json", "three.json"]


# ---- listing and strict reading ----


def test_the_shipped_looks_are_whole(own: Path, registry: Registry) -> None:
    shipped = list_presets()
    assert len(shipped) >= 8 and not any(preset.is_own for preset in shipped)
    texts = set()
    for preset in shipped:
        assert preset.is_readable and preset.thumbnail is not None, preset
        assert 4_000 < preset.thumbnail.stat().st_size < 20_000
        values = load_preset(preset.path)
        assert list(values) == [name for name in TABLE if name in values]
        texts.add(values["prompt.text"])
        # One look must leave nothing of the one before.
        assert {"noise.max", "noise.min", "feedback.amount", "input.filters", "output.filters"} <= set(values)
        apply_preset_file(registry, preset.path)
    assert len(texts) == len(shipped)


def test_broken_ones_are_listed_with_their_reason(own: Path, registry: Registry) -> None:
    save_preset(registry, "fine")
    (own / "cut.json").write_text('{"sdv2live": 1, "val', "utf-8")
    (own / "wild.json").write_text('{"sdv2live": 1, "values": {"output.wet": 9}}', "utf-8")
    (own / "a+b.json").write_bytes((own / "fine.json").read_bytes())
    (own / "folder.json").mkdir()
    (own / ".hidden.json").write_text("x", "utf-8")
    found = {preset.name: preset for preset in list_presets() if preset.is_own}
    assert list(found) == ["a+b", "cut", "fine", "folder", "wild"]
    assert [name for name, preset in found.items() if preset.is_readable] == ["fine"]
    for name, words in (("cut", "valid JSON"), ("wild", "output.wet"), ("a+b", "rename"), ("folder", "ordinary")):
        assert words in found[name].reason and str(found[name].path) in found[name].reason
    assert "a+b" not in preset_names()
    delete_preset("cut").restore()
    rename_preset("a+b", "a b")
    apply_preset(registry, "a b")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_and_pipes(own: Path, registry: Registry, tmp_path: Path) -> None:
    path = save_preset(registry, "mine")
    outside = tmp_path / "outside.json"
    outside.write_bytes(path.read_bytes())
    (own / "link.json").symlink_to(outside)
    (own / "ring.json").symlink_to(own / "ring.json")
    os.mkfifo(own / "pipe.json")
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (own / "mine.jpg").symlink_to(tmp_path / "secret.jpg")
    found = {preset.name: preset for preset in list_presets() if preset.is_own}
    assert "link out of its folder" in found["link"].reason and not found["ring"].is_readable
    assert "ordinary" in found["pipe"].reason and found["mine"].thumbnail is None
    for name in ("link", "ring", "pipe"):
        with pytest.raises(UserError, match="there is no preset"):
            apply_preset(registry, name)
    save_preset(registry, "link", overwrite=True)
    assert not (own / "link.json").is_symlink() and outside.is_file()
    delete_preset("ring")


GOOD = '{"sdv2live": 1, "values": {"seed": 5, "noise.max": 0.5}}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("5,", "1" * 400 + ","),
        GOOD.replace("0.5", "1e999"),
        GOOD.replace("0.5", "-Infinity"),
        GOOD.replace("1,", "true,", 1),
        GOOD.replace("1,", "1.0,", 1),
        GOOD.replace("5,", "null,"),
        GOOD.replace('"values"', '"author": "me", "values"'),
        GOOD.replace("seed", "stream.reset"),
        GOOD.replace("seed", "source.name"),
        GOOD.replace("5,", "-1,"),
        GOOD.replace("5,", '"\\u0000five",'),
        GOOD + " ",
        "\ufeff" + GOOD,
    ],
)
def test_strictness(tmp_path: Path, text: str) -> None:
    path = tmp_path / "look.json"
    path.write_text(text, "utf-8")
    if text == GOOD + " ":
        assert load_preset(path) == {"seed": 5, "noise.max": 0.5}
        return
    with pytest.raises(UserError, match=r"look\.json"):
        load_preset(path)


@pytest.mark.fuzz
def test_mutated_files_are_refused_in_a_sentence_or_applied(tmp_path: Path, registry: Registry) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    registry.set_strictly(list(WILD.items()), origin="gui")
    good = json.dumps({"sdv2live": 1, "values": look_of(registry)}, ensure_ascii=False).encode()
    path = tmp_path / "look.json"
    applied = 0
    for number in range(500):
        path.write_bytes(mutated(good, draw))
        later = fresh()
        before = later.snapshot()
        try:
            apply_preset_file(later, path)
            applied += 1
        except UserError as error:
            assert "\n" not in str(error) and str(error).endswith("."), (seed, number)
            assert later.snapshot() is before, (seed, number)
    assert 0 < applied < 500, seed


def mutated(good: bytes, draw: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(data))
        match draw.randrange(5):
            case 0:
                data[at] = draw.randrange(256)
            case 1:
                del data[at : at + draw.randrange(1, 20)]
            case 2:
                data[at:at] = draw.choice([b"NaN", b'"', b"{", b"]", b"9" * 30, b"null", b"\\ud800", b"-1", b"e999"])
            case 3:
                data[at:at] = data[: draw.randrange(40)]
            case 4:
                data[at : at + 1] = str(draw.randrange(10)).encode()
        if not data:
            return b""
    return bytes(data)
