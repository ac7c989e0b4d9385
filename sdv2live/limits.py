"""Numbers that rooms which do not know each other have to agree on."""

MAX_STEPS = 8  # denoising steps of a chunk
MAX_LORAS = 8  # LoRA files in one engine
MOST_LORA_STRENGTH = 4.0  # either way
