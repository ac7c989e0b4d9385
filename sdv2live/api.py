"""The Python interface: `sdv2live.Stream`, an engine in this process for scripts and notebooks.

Frames in, frames out: as an iterator, chunk by chunk, or through the three stages one by one. The same engine, table
and rules as in the app; no clock, nothing is dropped, and the same frames, seed and settings give the same pictures.
One thread uses a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from sdv2live.capture.preprocess import frame_into
from sdv2live.engine.base import Chunk, ChunkResult
from sdv2live.errors import UserError
from sdv2live.filters import apply_chain, parse_chain
from sdv2live.frames import Pixels
from sdv2live.paths import assets_dir
from sdv2live.registry import Registry
from sdv2live.settings import engine_spec, framing_of, settings_of

if TYPE_CHECKING:
    from sdv2live.engine.stream import InFlight, StreamEngine


class Stream:
    """A stream of pictures through an engine.

    >>> with Stream(prompt="pencil drawing", steps=2) as stream:
    ...     for picture in stream(frames):
    ...         show(picture)

    engine: pocket, wan-1.3b or wan-14b. size: (width, height), multiples of 16, or the engine's own. settings: any row
    of the parameter table by its name, such as {"noise.max": 0.7}. Frames and pictures are [H, W, 3] uint8 RGB; frames
    of another size are brought to the engine's as `source.fit`, `source.rotate` and `source.mirror` say. Raises
    UserError for what the user can put right.
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

        spec = replace(engine_spec(registry), waits_for_text=True)
        if spec.threads:
            import torch

            torch.set_num_threads(spec.threads)
        self._registry = registry
        self._framing = framing_of(registry.snapshot())
        self._engine: StreamEngine = build_engine(spec, assets_dir())
        self._next_chunk = 0
        self.size_wh = spec.size_wh

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine. May be called twice."""
        self._engine.close()

    def set(self, name: str, value: object) -> None:
        """Set a row of the parameter table; acts on the next chunk. Raises UserError if it is refused."""
        self._registry.set_strictly([(name, value)], origin="api")

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
        """Forget what was: the next chunk opens a new stream."""
        self._engine.reset()

    # Frames in, frames out.

    def __call__(self, frames: Iterable[Pixels]) -> Iterator[Pixels]:
        """A picture for each frame, in order, as they get ready; the stream goes on with the next call.

        The last chunk is completed by repeating its last frame, and what that adds is cut off again.
        """
        real_of: dict[int, int] = {}
        waiting: list[Pixels] = []

        def submit() -> None:
            real_of[self._next_chunk] = len(waiting)
            complete = waiting + [waiting[-1]] * (self.frames_wanted - len(waiting))
            self._submit(np.stack(complete))
            waiting.clear()

        def pictures(results: list[ChunkResult]) -> Iterator[Pixels]:
            for result in results:
                yield from self._finished(result)[: real_of.pop(result.chunk_id)]

        for frame in frames:
            waiting.append(self._fitted(frame))
            if len(waiting) == self.frames_wanted:
                submit()
                yield from pictures(self._engine.poll())
        if waiting:
            submit()
        yield from pictures(self._engine.flush())

    def push(self, frames: Iterable[Pixels]) -> list[Pixels]:
        """Hand over one chunk of `frames_wanted` frames -> the pictures that are ready, which may be of earlier ones.

        With several steps in the `throughput` schedule a chunk comes out some chunks later; `flush` gives the rest.
        """
        self._submit(np.stack([self._fitted(frame) for frame in frames]))
        return [picture for result in self._engine.poll() for picture in self._finished(result)]

    def flush(self) -> list[Pixels]:
        """The pictures of what is still in flight."""
        return [picture for result in self._engine.flush() for picture in self._finished(result)]

    # The stages apart.

    def encode(self, frames: Iterable[Pixels]) -> InFlight:
        """The first stage: `frames_wanted` frames -> their noised latents and all that was decided for them.

        `latents` [1, F, 16, h, w] of what comes back may be changed before it goes on.
        """
        item = self._engine.encode(
            Chunk(self._next_chunk, np.stack([self._fitted(frame) for frame in frames])),
            settings_of(self._registry.snapshot()),
        )
        self._next_chunk += 1
        item.latents = item.latents.clone()  # may be changed in place, which torch forbids for the engine's own
        return item

    def denoise(self, item: InFlight) -> InFlight:
        """The second: all denoising steps. Chunks in the order of encoding; `latents` is clean afterwards."""
        self._engine.denoise(item)
        item.latents = item.latents.clone()
        return item

    def decode(self, item: InFlight) -> list[Pixels]:
        """The third: latents -> pictures. Chunks in the same order."""
        return self._finished(self._engine.decode(item))

    def _submit(self, frames: Pixels) -> None:
        self._engine.submit(Chunk(self._next_chunk, frames), settings_of(self._registry.snapshot()))
        self._next_chunk += 1

    def _fitted(self, frame: Pixels) -> Pixels:
        width, height = self.size_wh
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise UserError(f"a frame is [H, W, 3] uint8 RGB, not {list(frame.shape)} {frame.dtype}: convert it first.")
        out = np.empty((height, width, 3), np.uint8)
        frame_into(frame, out, self._framing)
        return apply_chain(parse_chain(str(self._registry.get("input.filters"))), out)

    def _finished(self, result: ChunkResult) -> list[Pixels]:
        if not result.is_finite:
            raise UserError(f"the engine made no picture of chunk {result.chunk_id}: its values are no numbers.")
        chain = parse_chain(str(self._registry.get("output.filters")))
        return [apply_chain(chain, frame) for frame in result.frames]
