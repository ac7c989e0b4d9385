"""The output clock. Owns: which picture every output gets at each tick, whatever the engine does.

A thread of its own with absolute deadlines: a late tick is not caught up in a burst. It asks the pacer for the newest
due picture, mixes camera and effect, holds, freezes, bypasses, and puts a card in place of a picture that has become
too old. Knows outputs only as something that takes pictures.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sdv2live.capture.cards import card, labelled, mixed
from sdv2live.capture.preprocess import fit_into, frame_into
from sdv2live.clock import Clock
from sdv2live.filters import apply_chain, parse_chain
from sdv2live.frames import Frame, Pixels, Shown
from sdv2live.pacing import Pacer, Picture
from sdv2live.queues import LatestSlot
from sdv2live.registry import Registry, Snapshot
from sdv2live.settings import framing_of
from sdv2live.stats import Rate, Series

log = logging.getLogger(__name__)

TOO_OLD_S = 3.0
TOO_OLD_PERIODS = 2.5
LARGE_CARD_WH = (1280, 720)  # words on a card of the engine's size could not be read where it is enlarged


class Outlet(Protocol):
    """Takes one picture a tick and never blocks. always_on: it is watched, and gets cards before the first picture.

    takes_any_size: in a bypass it gets the camera's own picture and not one of the engine's size, and large cards.
    """

    @property
    def always_on(self) -> bool: ...

    @property
    def takes_any_size(self) -> bool: ...

    def offer(self, pixels: Pixels, tick: int) -> None: ...


class Presenter:
    """Pictures in from the session, one picture a tick out to every outlet.

    words(): what a card says is going on. preview: the newest tick for a window, which takes it when it likes.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        outlets: Sequence[Outlet],
        size_wh: tuple[int, int],
        rate_fps: int,
        clock: Clock,
        newest_frame: Callable[[], Frame | None],
        words: Callable[[], str],
        label: str = "",
    ) -> None:
        self._registry, self._outlets, self._clock = registry, tuple(outlets), clock
        self._size_wh, self._label = size_wh, label
        self._period_s = 1.0 / rate_fps
        self._newest_frame, self._words = newest_frame, words
        self.preview: LatestSlot[Shown] = LatestSlot()
        self._pacer = Pacer()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="output clock", daemon=True)
        self._shown: Picture | None = None
        self._last_pixels: Pixels | None = None
        self._frozen: Pixels | None = None
        self._last_new_s: float | None = None
        self._fresh_s = 0.0  # when the picture was last what it should be: new, or held on purpose
        self._too_old_s = TOO_OLD_S
        self.failure: BaseException | None = None
        self._card: tuple[str, Pixels, Pixels] | None = None  # words, of the pictures' size, large
        self._format_asked: tuple[tuple[int, int], str] | None = None
        self._made: tuple[tuple[int, str, float], Picture, Pixels] | None = None
        self._has_begun = False
        self._ticks = 0
        self.first_picture_s: float | None = None
        self.first_captured_s: float | None = None
        self.frames_out = 0
        self.missed_ticks = 0
        self.age_ms, self.new_frame_interval_ms = Series(), Series()
        self.change_to_picture_ms = Series()
        self._reacted_s: float | None = None  # the change that was measured last
        self.new_frame_rate = Rate()

    def expect(self, *, period_s: float) -> None:
        """The source's frames come this far apart: a slow one does not make its pictures old."""
        self._too_old_s = max(TOO_OLD_S, TOO_OLD_PERIODS * period_s)

    def show_at(self, size_wh: tuple[int, int], label: str) -> None:
        """Pictures of another engine: what was shown of the one before is let go."""
        with self._lock:
            self._format_asked = (size_wh, label)

    def feed(self, outlets: Sequence[Outlet]) -> None:
        """From the next tick on these get the pictures."""
        self._outlets = tuple(outlets)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, pictures: Sequence[Picture], ready_s: float) -> None:
        """A finished chunk; from the session's thread."""
        with self._lock:
            self._pacer.add(pictures, ready_s)

    def clear(self) -> None:
        """An epoch is over: what waits is not shown."""
        with self._lock:
            self._pacer.clear()

    @property
    def has_waiting(self) -> bool:
        with self._lock:
            return self._pacer.waiting > 0

    @property
    def lagged(self) -> int:
        return self._pacer.lagged

    @property
    def repeated(self) -> int:
        return self._pacer.repeated

    @property
    def passed_over(self) -> int:
        return self._pacer.passed_over

    def _run(self) -> None:
        deadline_s = self._clock.now_s()
        try:
            while not self._clock.wait_until(deadline_s, self._stop):
                now_s = self._clock.now_s()
                self.tick(now_s)
                deadline_s += self._period_s
                behind = int((now_s - deadline_s) / self._period_s)
                if behind > 0:
                    # As OBS does: time moves on by whole ticks, what was missed is counted and not made up for.
                    self.missed_ticks += behind
                    self._ticks += behind if self._has_begun else 0
                    deadline_s += behind * self._period_s
        except Exception as error:  # a thread's top: the app ends with this error
            log.exception("the output clock stopped")
            self.failure = error

    def tick(self, now_s: float) -> None:
        """One tick: decide, compose, hand over."""
        values = self._registry.snapshot()
        is_frozen, is_bypassed = bool(values["output.freeze"]), bool(values["output.bypass"])
        with self._lock:
            picture = self._pacer.tick(now_s) if self._pacer.is_started else None
            if self._format_asked not in (None, (self._size_wh, self._label)):
                self._size_wh, self._label = self._format_asked
                self._shown = self._made = self._card = self._last_pixels = self._frozen = None
            self._format_asked = None
        if picture is not None:
            self._note_new(picture, now_s)
            if not (is_frozen or is_bypassed or values["output.panic"]):
                self._note_reaction(picture, now_s)
            self._shown = picture
        if picture is not None or is_frozen or values["stream.paused"]:
            self._fresh_s = now_s
        # What is frozen is what was seen at that moment, whatever is turned meanwhile.
        self._frozen = (self._frozen if self._frozen is not None else self._last_pixels) if is_frozen else None
        bypass = self._bypass_frame(now_s) if is_bypassed and values["stream.running"] else None
        pixels = self._frozen if self._frozen is not None else self._composed(now_s, bypass, values)
        self._last_pixels = pixels
        full = _turned(bypass, values) if bypass is not None and not is_frozen else pixels
        if values["output.panic"]:
            pixels = full = self._card_for("one moment, please", "")
        if self._card is not None and pixels is self._card[1]:
            full = self._card[2]
        self._has_begun = self._has_begun or self._shown is not None or is_bypassed
        # A window may be what others see, so a panic leaves nothing beside its card.
        self.preview.put(Shown(full, None if values["output.panic"] else self._source_beside(now_s)))
        for outlet in self._outlets:
            if self._has_begun or outlet.always_on:
                outlet.offer(full if outlet.takes_any_size else pixels, self._ticks)
        if self._has_begun:
            self._ticks += 1
            self.frames_out += 1

    def _note_new(self, picture: Picture, now_s: float) -> None:
        if self.first_picture_s is None:
            self.first_picture_s, self.first_captured_s = now_s, picture.captured_s
        if self._last_new_s is not None:
            self.new_frame_interval_ms.add((now_s - self._last_new_s) * 1000)
        self._last_new_s = now_s
        self.age_ms.add((now_s - picture.captured_s) * 1000)
        self.new_frame_rate.note(now_s)

    def _note_reaction(self, picture: Picture, now_s: float) -> None:
        """At the first picture of its chunk that comes: others may have been passed over."""
        if picture.changed_s is not None and picture.changed_s != self._reacted_s:
            self.change_to_picture_ms.add((now_s - picture.changed_s) * 1000)
            self._reacted_s = picture.changed_s

    def _source_beside(self, now_s: float) -> Pixels | None:
        """The frame that the picture was made of, or, where there is no picture, the camera's newest."""
        if self._shown is not None and now_s - self._fresh_s <= self._too_old_s:
            return self._shown.source
        frame = self._newest_frame()
        return frame.pixels if frame is not None else None

    def _bypass_frame(self, now_s: float) -> Frame | None:
        frame = self._newest_frame()
        return frame if frame is not None and now_s - frame.captured_s < self._too_old_s else None

    def _composed(self, now_s: float, bypass: Frame | None, values: Snapshot) -> Pixels:
        if not values["stream.running"]:
            self._shown = None
            return self._card_for("sdv2live", "stopped")
        if bypass is not None:
            if all(outlet.takes_any_size for outlet in self._outlets):
                return _turned(bypass, values)
            return self._fitted(bypass, values)
        if self._shown is None:
            return self._card_for("sdv2live", self._words())
        if now_s - self._fresh_s > self._too_old_s:
            return self._card_for("no new picture", self._words())
        return self._finished(self._shown, str(values["output.filters"]), float(values["output.wet"]))

    def _finished(self, picture: Picture, chain_text: str, wet: float) -> Pixels:
        """The picture as the outputs get it: filtered, mixed with the source, of their size, labelled.

        A tick that repeats a picture repeats its filters only where something was turned.
        """
        key = (id(picture), chain_text, wet)  # the picture is kept as long as its number
        if self._made is None or self._made[0] != key:
            chain = parse_chain(chain_text)
            effect = apply_chain(chain, picture.effect) if wet > 0 else picture.effect
            source = apply_chain(chain.geometry, picture.source) if wet < 1 else picture.source
            pixels = mixed(source, effect, wet)
            if pixels.shape[1::-1] != self._size_wh:
                sized = np.empty((self._size_wh[1], self._size_wh[0], 3), np.uint8)
                fit_into(pixels, sized, "stretch")
                pixels = sized
            self._made = (key, picture, labelled(pixels, self._label) if self._label else pixels)
        return self._made[2]

    def _fitted(self, frame: Frame, values: Snapshot) -> Pixels:
        out = np.empty((self._size_wh[1], self._size_wh[0], 3), np.uint8)
        frame_into(frame.pixels, out, framing_of(values))
        return out

    def _card_for(self, title: str, detail: str) -> Pixels:
        """Drawn again only when the words change."""
        if self._card is None or self._card[0] != title + detail:
            small, large = (card(size_wh, title, detail) for size_wh in (self._size_wh, LARGE_CARD_WH))
            self._card = (title + detail, small, large)
        return self._card[1]


def _turned(frame: Frame, values: Snapshot) -> Pixels:
    """The whole frame, the way up that the user wants it; as it is, where it is that way up."""
    framing = framing_of(values)
    if not framing.quarter_turns and not framing.is_mirrored:
        return frame.pixels
    width, height = frame.size_wh if framing.quarter_turns % 2 == 0 else frame.size_wh[::-1]
    out = np.empty((height, width, 3), np.uint8)
    frame_into(frame.pixels, out, framing)
    return out
