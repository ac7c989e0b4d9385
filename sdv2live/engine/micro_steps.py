"""In which order the denoising steps of chunks run, and the finished ones are decoded. Owns what is in flight.

Two schedules with the same picture, since every denoising step has a cache row of its own: `latency` runs a chunk's
steps one after another, `throughput` (the stream batch) runs one step of several chunks at once, with as many
micro-steps under way as there are stages. What a chunk is made with was fixed when it entered (stream.py). Runs on the
engine's thread; computes nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sdv2live.engine.base import ChunkSettings
from sdv2live.engine.codec import Side
from sdv2live.engine.orders import NO_CHUNK, DecodeOrder, NoiseKey, RowOrder, StepOrder
from sdv2live.engine.pipe import Pipe
from sdv2live.engine.stage_clock import Mark, StageClock
from sdv2live.limits import MAX_STEPS

NOT_DUE = -1
NOTHING: Side = ()


@dataclass(slots=True)
class InFlight:
    """A chunk on its way. The first block is fixed when it enters; `latents` [1, F, C, h, w] float32 moves."""

    chunk_id: int
    number: int  # of the epoch, from 0
    first_frame: int  # latent frames first..newest
    newest_frame: int
    timesteps: tuple[int, ...]
    fork_from: int  # rows of the chunk before it; above them, row k+1 starts as a copy of row k
    sink: int | None  # the sink that takes this chunk's newest frame, if any
    noise_scale: float
    motion: float
    noise: NoiseKey
    settings: ChunkSettings
    text: int  # the number of its prompt
    pictures: int
    latents: Tensor
    side: Side
    step: int = 0  # that it takes next
    spans: list[tuple[str, Mark, Mark, float]] = field(default_factory=list)  # stage, start, end, this chunk's share

    taken_ms: float = 0.0  # how long the host was taken by its entering

    @property
    def is_last_step(self) -> bool:
        return self.step + 1 == len(self.timesteps)

    @property
    def decode_order(self) -> DecodeOrder:
        return DecodeOrder(self.number, self.text, self.noise_scale, self.pictures)


@dataclass(slots=True)
class Flight:
    """A micro-step under way. micro_step: its number, or NOT_DUE where its chunk's next step is not part of one."""

    rows: list[tuple[int, InFlight]]
    started: Mark
    micro_step: int


class MicroSteps:
    """Those of one epoch; a reset takes another one, so nothing of the old epoch can be left.

    clean: by chunk number, how many steps it took and its last clean latent frame; of the newest chunks.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        epoch: int,
        clock: StageClock,
        deliver: Callable[[InFlight, Tensor, Tensor], None],
        kept_texts: Callable[[], Iterable[int]],
    ) -> None:
        """deliver: called with each chunk in order, its frames [T, H, W, 3] uint8 and whether they are finite, both on
        the device. kept_texts: numbers of prompts that will be wanted, beside those in flight."""
        self._pipe, self._epoch, self._clock = pipe, epoch, clock
        self._deliver, self._kept_texts = deliver, kept_texts
        self.clean: dict[int, tuple[int, Tensor]] = {}
        self._flights: deque[Flight] = deque()
        # What comes back of a micro-step goes on in the one that is `depth` later, however early it is back.
        self._micro_steps = 0
        self._due: dict[int, list[tuple[int, InFlight]]] = {}
        self._denoised: dict[int, InFlight] = {}
        self._decoded = 0
        # Where another stage decodes: chunks whose last step is ordered and not their decoding, then those on the way.
        self._last_steps: dict[int, InFlight] = {}
        self._decodes_ordered = 0
        self._decoding: dict[int, InFlight] = {}

    # The two schedules.

    def take_all(self, item: InFlight) -> None:
        """One chunk, its steps one after another. The opening runs on row 0 and is then copied to every row."""
        while item.step < len(item.timesteps):
            self._send([(item.step if item.number else 0, item)], micro_step=NOT_DUE)
            self._land()
        if not item.number and self._pipe.first.cache.writes_empty_rows:
            self._write_empty_rows(item)

    def take_one(self, entering: InFlight | None) -> int:
        """One step of every chunk whose turn it is, each on its own row; -> how many rows that were.

        A chunk's next step is `depth` micro-steps after the one before, on the next row.
        """
        number = self._micro_steps
        self._micro_steps += 1
        while self._flights and self._flights[0].micro_step <= number - self._pipe.depth:
            self._land()
        rows = self._due.pop(number, [])
        if entering is not None:
            rows = [(0, entering), *rows]
        if rows:
            self._send(rows, micro_step=number)
        return len(rows)

    def drain(self) -> None:
        """Until nothing is in flight."""
        while self._due or self._flights:
            self.take_one(None)
        self.decode_finished()

    # Coming back.

    def land_all(self) -> None:
        """Take back what is under way; steps that are due then stay so."""
        while self._flights:
            self._land()

    def land_what_is_ready(self) -> None:
        while self._flights and self._pipe.is_ready():
            self._land()
            self.decode_finished()

    def newest_clean(self, chunks: int) -> Tensor | None:
        """The newest clean latent frame that both schedules have when `chunks` have entered: of chunk j once j and its
        steps are over. With several stages its steps may take longer than that, and are waited for."""
        while any(item.number + len(item.timesteps) <= chunks for item in self._under_way()):
            self.take_one(None)
        done = [number for number, (steps, _) in self.clean.items() if number + steps <= chunks]
        return self.clean[max(done)][1] if done else None

    def decode_finished(self) -> None:
        """Decode in the order of entry: the decoder remembers, and a chunk of fewer steps may be denoised first."""
        while self._decoded in self._denoised:
            self.decode_next()

    @property
    def next_to_decode(self) -> InFlight | None:
        """The oldest chunk that is not decoded, if it is denoised."""
        return self._denoised.get(self._decoded)

    def decode_next(self) -> None:
        started = self._clock.mark()
        item = self._denoised.pop(self._decoded)
        self._decoded += 1
        picture = self._pipe.first.decode(item.decode_order, item.latents, item.side)
        item.spans.append(("decode", started, self._pipe.first.decoding.mark(self._clock), 1.0))
        self._deliver(item, *picture)

    def _land(self) -> None:
        """Take the oldest micro-step back; its chunks go on, or are denoised."""
        landed = self._pipe.take()
        flight, ended = self._flights.popleft(), self._clock.mark()
        for b, (row, item) in enumerate(flight.rows):
            item.latents = landed.latents[b : b + 1]
            item.spans.append(("denoise", flight.started, ended, 1.0 / len(flight.rows)))
            item.step += 1
            if item.step < len(item.timesteps):
                if flight.micro_step != NOT_DUE:
                    self._due.setdefault(flight.micro_step + self._pipe.depth, []).append((row + 1, item))
                continue
            # The opening runs all its steps before the next chunk enters, in both schedules.
            self.clean[item.number] = (len(item.timesteps) if item.number else 1, item.latents[:, -1:])
            self.clean.pop(item.number - 2 * MAX_STEPS, None)
            if self._pipe.decodes_here:
                self._denoised[item.number] = item
        for number, picture in landed.pictures.items():
            self._deliver(self._decoding.pop(number), *picture)

    # Going out.

    def _send(self, rows: list[tuple[int, InFlight]], *, micro_step: int) -> None:
        """Begin one denoising step of each item on its row, in one batch."""
        started = self._clock.mark()
        enters, side = NO_CHUNK, NOTHING
        decodes: list[DecodeOrder] = []
        if not self._pipe.decodes_here:
            enters, side = next(((item.number, item.side) for _, item in rows if item.step == 0), (NO_CHUNK, NOTHING))
            self._last_steps |= {item.number: item for _, item in rows if item.is_last_step}
            while (item := self._last_steps.pop(self._decodes_ordered, None)) is not None:
                decodes.append(item.decode_order)
                self._decoding[item.number] = item
                self._decodes_ordered += 1
        items = [item for _, item in rows]
        # Chunks that are denoised need their prompt for decoding, and its keys and values no more.
        others = [*self._denoised.values(), *self._last_steps.values(), *self._decoding.values()]
        order = StepOrder(
            epoch=self._epoch,
            rows=tuple(self._order_of(row, item, step=item.step) for row, item in rows),
            decodes=tuple(decodes),
            enters=enters,
            texts=self._texts_of([*items, *self._under_way(), *others]),
            contexts=tuple(sorted({item.text for item in (*items, *self._under_way())})),
        )
        latents = torch.cat([item.latents for item in items]) if len(items) > 1 else items[0].latents
        self._pipe.send(order, latents, side)
        self._flights.append(Flight(rows, started, micro_step))

    def _write_empty_rows(self, opening: InFlight) -> None:
        """What the reference's rows compute before a chunk reaches them: of zeros, then of what the row above made.

        Row i does it i times, always as the frame after the opening; all of it follows from the opening alone.
        """
        steps, frame = len(opening.timesteps), opening.newest_frame + 1
        zeros = torch.zeros_like(opening.latents[:, :1])
        above: dict[int, Tensor] = {}
        for call in range(1, steps):
            rows = range(call, steps)
            orders = tuple(
                replace(
                    self._order_of(row, opening, step=row),
                    chunk=NO_CHUNK,
                    first_frame=frame,
                    newest_frame=frame,
                    noise=replace(opening.noise, number=call - row, is_empty=True),
                    copies_to=(),
                )
                for row in rows
            )
            kept = self._texts_of([opening])
            latents = torch.cat([above.get(row - 1, zeros) for row in rows])
            self._pipe.send(StepOrder(self._epoch, orders, texts=kept, contexts=kept), latents, ())
            landed = self._pipe.take()
            above = {row: landed.latents[b : b + 1] for b, row in enumerate(rows)}

    def _under_way(self) -> list[InFlight]:
        """Chunks with steps to take, or being taken."""
        rows = [row for flight in self._flights for row in flight.rows]
        rows += [row for due in self._due.values() for row in due]
        return [item for _, item in rows]

    def _texts_of(self, items: list[InFlight]) -> tuple[int, ...]:
        return tuple(sorted({item.text for item in items} | set(self._kept_texts())))

    def _order_of(self, row: int, item: InFlight, *, step: int) -> RowOrder:
        is_last = step + 1 == len(item.timesteps)
        if item.number == 0:
            copies_to = tuple(range(1, len(item.timesteps))) if is_last else ()
        else:
            # A row that joins starts as a copy of the row above as this chunk left it: the slot that this chunk
            # wrote is the one that it writes again there, so this is the row as it stood before the chunk.
            copies_to = (row + 1,) if item.fork_from <= row + 1 < len(item.timesteps) else ()
        return RowOrder(
            chunk=item.number,
            row=row,
            first_frame=item.first_frame,
            newest_frame=item.newest_frame,
            text=item.text,
            step=step,
            timestep=item.timesteps[step],
            next_timestep=None if is_last else item.timesteps[step + 1],
            noise=item.noise,
            sink=item.sink,
            sink_threshold=item.settings.sink_similarity,
            copies_to=copies_to,
        )
