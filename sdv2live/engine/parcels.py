"""Several tensors in one message, so that a hop from rank to rank is one send. Owns: where each lies in the buffer.

Both ends know beforehand what comes (`Form`), so a parcel has no head and nothing of it is read on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdv2live.engine.codec import Form

_ALIGNED_BYTES = 64


def parcel_bytes(forms: Sequence[Form]) -> int:
    """How large the buffer of such a parcel is."""
    return sum(_rounded(form.bytes) for form in forms)


def views(buffer: Tensor, forms: Sequence[Form]) -> list[Tensor]:
    """The tensors of a parcel, as views of its buffer [parcel_bytes(forms)] uint8."""
    found, start = [], 0
    for form in forms:
        flat = buffer[start : start + form.bytes].view(form.dtype)
        if form.channels_last:
            batch, channels, height, width = form.shape
            found.append(flat.view(batch, height, width, channels).permute(0, 3, 1, 2))
        else:
            found.append(flat.view(form.shape))
        start += _rounded(form.bytes)
    return found


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
