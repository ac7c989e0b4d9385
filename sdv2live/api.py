"""The Python interface: `sdv2live.Stream`, an engine in this process for scripts and notebooks.

Frames in, frames out: as an iterator, chunk by chunk, or through the three stages one by one. The same engine, table
and rules as in the app; no clock, nothing is dropped, and the same frames, seed and settings give the same pictures.
One thread uses a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdv2live.capture.preprocess import frame_into
from sdv2live.engine.base import Chunk, ChunkResult
from sdv2live.engine.rank_process import RankProcess, start_ranks, with_meeting_place
from sdv2live.errors import ChunkError, EngineDead, RankLost, UserError, one_line
from sdv2live.filters import apply_chain, parse_chain
from sdv2live.frames import Pixels
from sdv2live.parameters import TABLE, When
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, framing_of, refuse_auto, settings_of

if TYPE_CHECKING:
    from sdv2live.engine.micro_steps import InFlight
    from sdv2live.engine.stream import StreamEngine

T = TypeVar("T")
# Rows that act on pictures here, though in the app they are not tied to a chunk.
_FRAME_ROWS = ("output.filters", "source.fit", "source.mirror", "source.rotate")
_OF_THE_APP = ("stream.paused",)  # there is no clock that could be paused


class Stream:
    """A stream of pictures through an engine.

    >>> with Stream(prompt="pencil drawing", steps=2) as stream:
    ...     for picture in stream(frames):
    ...         show(picture)

    engine: pocket, wan-1.3b or wan-14b. size: (width, height), multiples of 16, or the engine's own. settings: any row
    of the parameter table by its name, such as {"noise.max": 0.7}. Frames and pictures are [H, W, 3] uint8 RGB; frames
    of another size are brought to the engine's as `source.fit`, `source.rotate` and `source.mirror` say. Raises
    UserError for what the user can put right; if it is a chunk that failed, the next one opens a new stream.
    """

    def __init__(
        self,
        *,
        engine: str = "pocket",
        prompt: str | None = None,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        given = {
            "engine.name": engine,
            "engine.size": size,
            "prompt.text": prompt,
            "steps.count": steps,
            "seed": seed,
            **(settings or {}),
        }
        said = [(name, value) for name, value in given.items() if value is not None]
        for name, _ in said:
            _refuse_rows_of_the_app(name)
        registry = Registry()
        registry.set_strictly([item for item in said if item[0].startswith("engine.")], origin="api")
        engine_spec(registry)  # brings the engine's defaults, which ranges such as steps.count depend on
        registry.set_strictly([item for item in said if not item[0].startswith("engine.")], origin="api")
        self._start(registry)

    @classmethod
    def of(cls, registry: Registry) -> Stream:
        """A stream whose parameters are those of `registry`, which may change while it runs."""
        stream = cls.__new__(cls)
        stream._start(registry)
        return stream

    def _start(self, registry: Registry) -> None:
        from sdv2live.engine.build import build_engine

        refuse_auto(registry, "a stream that is asked for its pictures")
        spec = with_meeting_place(replace(engine_spec(registry), waits_for_text=True))
        if spec.threads:
            import torch

            torch.set_num_threads(spec.threads)
        self._registry = registry
        self._ranks: list[RankProcess] = []
        try:
            self._ranks = start_ranks(spec)
            self._engine: StreamEngine = build_engine(spec, assets_dir())
        except (EngineDead, RankLost) as error:
            self._end_ranks()
            raise UserError(f"{spec.name} could not be started over {spec.ranks} ranks: {self._why(error)}.") from None
        except BaseException:
            self._end_ranks()
            raise
        self._next_chunk = 0
        self._real_frames: dict[int, int] = {}  # of each chunk in flight: what its tail was completed with is cut off
        self._resets = registry.get("stream.reset")
        self._is_closed = False
        self.size_wh = spec.size_wh

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine. May be called twice; everything else is refused from then on."""
        self._is_closed = True
        self._engine.close()
        self._end_ranks()

    def _end_ranks(self) -> None:
        for rank in self._ranks:
            rank.close()

    def _why(self, error: Exception) -> str:
        """A rank that has ended knows best."""
        return next((rank.reason for rank in self._ranks if rank.reason), one_line(error))

    def set(self, name: str, value: object) -> None:
        """Set a row of the parameter table; acts on the next chunk, and `stream.reset` at once.

        Raises UserError if it is refused: out of range, fixed since the start, or of no meaning without the app.
        """
        self._refuse_if_closed()
        _refuse_rows_of_the_app(name)
        if name in TABLE and TABLE[name].when is When.START:
            raise UserError(f"{name} is fixed once a stream has started: give it to a new Stream.")
        self._registry.set_strictly([(name, value)], origin="api")
        if (resets := self._registry.get("stream.reset")) != self._resets:
            self._resets = resets
            self.reset()

    def get(self, name: str) -> Any:
        """The value of a row of the parameter table. Raises UserError for a name that there is not."""
        try:
            return self._registry.get(name)
        except KeyError:
            raise UserError(f"there is no parameter {name!r}: see the parameter reference.") from None

    @property
    def frames_wanted(self) -> int:
        """How many frames the next chunk takes: the first of a stream may take another number than those after it."""
        return self._engine.frames_wanted

    def reset(self) -> None:
        """Forget what was, also what is in flight: the next chunk opens a new stream."""
        self._refuse_if_closed()
        self._real_frames.clear()
        self._engine.reset()

    # Frames in, frames out.

    def __call__(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        """A picture for each frame, in order, as they get ready; the stream goes on with the next call.

        The last chunk is completed by repeating its last frame, and what that adds is cut off again. Pictures of
        chunks that were pushed before and are still in flight come first; those of a call that was broken off are not
        given any more.
        """
        self._refuse_if_closed()
        return self._restyled(frames)

    def _restyled(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        waiting: list[Pixels] = []
        submitted: list[int] = []

        def submit() -> list[ChunkResult]:
            complete = waiting + [waiting[-1]] * (self.frames_wanted - len(waiting))
            submitted.append(self._submit(np.stack(complete), real_frames=len(waiting)))
            waiting.clear()
            return self._run(self._engine.poll)

        try:
            for frame in frames:
                waiting.append(self._fitted(frame))
                if len(waiting) == self.frames_wanted:
                    yield from self._pictures(submit())
            if waiting:
                yield from self._pictures(submit())
            yield from self._pictures(self._run(self._engine.flush))
        finally:
            for chunk_id in submitted:  # nobody waits for them any more, if this was broken off
                if chunk_id in self._real_frames:
                    self._real_frames[chunk_id] = 0

    def push(self, frames: Iterable[Pixels]) -> list[Pixels]:
        """Hand over one chunk of `frames_wanted` frames -> the pictures that are ready, which may be of earlier ones.

        With several steps in the `throughput` schedule a chunk comes out some chunks later; `flush` gives the rest.
        """
        self._refuse_if_closed()
        chunk = self._chunk(frames)
        self._submit(chunk, real_frames=len(chunk))
        return list(self._pictures(self._run(self._engine.poll)))

    def flush(self) -> list[Pixels]:
        """The pictures of what is still in flight."""
        self._refuse_if_closed()
        return list(self._pictures(self._run(self._engine.flush)))

    # The stages apart.

    def encode(self, frames: Iterable[Pixels]) -> InFlight:
        """The first stage: `frames_wanted` frames -> their noised latents and all that was decided for them.

        `latents` [1, F, 16, h, w] of what comes back may be changed before it goes on.
        """
        self._refuse_if_closed()
        if self._ranks:
            raise UserError("the stages can be run apart on one device alone: leave engine.gpus at 1.")
        chunk = Chunk(self._next_chunk, self._chunk(frames))
        settings = settings_of(self._registry.snapshot())
        item = self._run(lambda: self._engine.encode(chunk, settings))
        self._next_chunk += 1
        item.latents = item.latents.clone()  # may be changed in place, which torch forbids for the engine's own
        return item

    def denoise(self, item: InFlight) -> InFlight:
        """The second: all denoising steps. Chunks in the order of encoding; `latents` is clean afterwards."""
        self._refuse_if_closed()
        self._run(lambda: self._engine.denoise(item))
        item.latents = item.latents.clone()
        return item

    def decode(self, item: InFlight) -> list[Pixels]:
        """The third: latents -> pictures. Chunks in the same order."""
        self._refuse_if_closed()
        return self._finished(self._run(lambda: self._engine.decode(item)))

    def _submit(self, frames: Pixels, *, real_frames: int) -> int:
        """-> the number of the chunk, of whose frames the first `real_frames` are pictures of their own."""
        number = self._next_chunk
        try:
            self._engine.submit(Chunk(number, frames), settings_of(self._registry.snapshot()))
        except ChunkError as error:
            raise UserError(f"the frames were not taken: {one_line(error)}.") from None
        self._next_chunk += 1
        self._real_frames[number] = real_frames
        return number

    def _run(self, work: Callable[[], T]) -> T:
        """What `work` of the engine gives. A chunk that fails is followed by a reset: the next opens a new stream."""
        try:
            return work()
        except RankLost as error:
            self.close()
            raise UserError(f"the stream is over, {self._why(error)}: make a new one.") from None
        except ChunkError as error:
            why = one_line(error)
        self.reset()
        raise UserError(f"a chunk failed: {why}.")

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise UserError("this stream is closed: make a new one.")

    def _chunk(self, frames: Iterable[Pixels]) -> Pixels:
        """[T, H, W, 3] of the engine's size, as many as it takes now."""
        fitted = [self._fitted(frame) for frame in frames]
        if len(fitted) != self.frames_wanted:
            raise UserError(
                f"this chunk takes {self.frames_wanted} frames, not {len(fitted)}: `frames_wanted` says how many, and "
                "calling the stream takes any number."
            )
        return np.stack(fitted)

    def _fitted(self, frame: Pixels) -> Pixels:
        width, height = self.size_wh
        if not isinstance(frame, np.ndarray):
            raise UserError(
                f"a frame is an array [H, W, 3] of uint8 RGB, not {type(frame).__name__}: convert it first."
            )
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise UserError(f"a frame is [H, W, 3] uint8 RGB, not {list(frame.shape)} {frame.dtype}: convert it first.")
        out = np.empty((height, width, 3), np.uint8)
        values = self._registry.snapshot()
        frame_into(frame, out, framing_of(values))
        return apply_chain(parse_chain(str(values["input.filters"])), out)

    def _pictures(self, results: list[ChunkResult]) -> Iterator[Pixels]:
        """Of chunks that were submitted. All are made before the first is given: what is left out is still gone."""
        pictures = [self._finished(result)[: self._real_frames.pop(result.chunk_id)] for result in results]
        return (picture for chunk in pictures for picture in chunk)

    def _finished(self, result: ChunkResult) -> list[Pixels]:
        if not result.is_finite:
            self.reset()  # what is no number would stay in the caches and spoil every picture after it
            raise UserError(
                f"the engine made no picture of chunk {result.chunk_id}, because its values are no numbers: take "
                "another --precision (engine.precision), or fetch the weights again."
            )
        chain = parse_chain(str(self._registry.get("output.filters")))
        return [apply_chain(chain, frame) for frame in result.frames]


def _refuse_rows_of_the_app(name: str) -> None:
    """Raises UserError for a row of the table that does nothing here. A name that there is not is not judged."""
    row = TABLE.get(name)
    if row is None or name in _FRAME_ROWS or (name.startswith("engine.") and row.when is When.START):
        return
    if row.when is not When.CHUNK or name in _OF_THE_APP:
        raise UserError(f"{name} is a parameter of the app and does nothing in a Stream: leave it away.")
