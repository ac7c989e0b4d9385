"""The three stages apart: encode, look at the latents and change them, denoise, decode. python stages.py"""

import numpy as np

from sdv2live import Stream


def moving_square(number: int, size_wh: tuple[int, int]) -> np.ndarray:
    """A square that walks over a grey ground, [H, W, 3] uint8 RGB."""
    width, height = size_wh
    frame = np.full((height, width, 3), 90, np.uint8)
    left = 8 + 4 * number % (width // 2)
    frame[height // 4 : height // 2, left : left + width // 4] = (230, 120, 40)
    return frame


def main() -> None:
    with Stream(prompt="pencil drawing", steps=2, size=(128, 128)) as stream:
        number = 0
        for chunk in range(4):
            frames = [moving_square(number + index, stream.size_wh) for index in range(stream.frames_wanted)]
            number += len(frames)
            item = stream.encode(frames)
            noised = item.latents.std().item()
            item.latents *= 0.9  # what a researcher might do here
            stream.denoise(item)
            pictures = stream.decode(item)
            print(
                f"chunk {chunk}: {len(pictures)} pictures, timesteps {item.timesteps}, noise {item.noise_scale:.2f}, "
                f"latents {noised:.2f} noised and {item.latents.std().item():.2f} clean"
            )


if __name__ == "__main__":
    main()
