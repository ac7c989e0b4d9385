"""What a rank runs of its codec. Owns: the codec's memory of the stream, and when it begins anew."""

from __future__ import annotations

from torch import Tensor

from sdv2live.engine.codec import Codec, CodecState, Prepared, Side


class Coder:
    """Encodes and decodes one stream, as its codec stands: the twin of every faster one."""

    def __init__(self, codec: Codec, size_wh: tuple[int, int]) -> None:
        self.codec, self._size_wh = codec, size_wh
        self.state: CodecState | None = None

    def reset(self) -> None:
        """The next chunk is a stream's first."""
        self.state = None  # goes before the new one comes: both at once may not fit
        self.state = self.codec.new_state(self._size_wh)

    def encode(self, video: Tensor) -> tuple[Tensor, Side]:
        """As the codec has it."""
        return self.codec.encode(video, self.state)

    def decode(self, latents: Tensor, side: Side, prepared: Prepared) -> Tensor:
        """As the codec has it."""
        return self.codec.decode(latents, side, prepared, self.state)
