"""Numbers that rooms which do not know each other have to agree on."""

MAX_STEPS = 8  # denoising steps of a chunk
