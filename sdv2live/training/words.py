"""Prompts for training the text encoder. Owns: the words that stand for each look, colour and strength, and sentences.

A drawn prompt comes with what it should be read as. What judges the encoder stands apart, in `unseen.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdv2live.training.effects import COLOURS, LOOKS

LOOK_NAMES, COLOUR_NAMES = tuple(LOOKS), tuple(COLOURS)

LOOK_WORDS: dict[str, tuple[str, ...]] = {
    "identity": (
        "original", "unchanged", "no effect", "plain video", "natural", "as it is", "raw camera", "untouched",
        "normal", "realistic", "photo", "photograph", "passthrough", "identity", "real life",
    ),
    "oil": (
        "oil painting", "oil paint", "oil", "oils", "impasto", "thick brush strokes", "van gogh",
        "painted canvas", "painting", "painterly", "brushstrokes", "impressionist", "impressionism", "monet",
        "rembrandt", "palette knife", "acrylic painting", "baroque painting", "expressionist painting",
        "gouache",
    ),
    "watercolour": (
        "watercolour", "watercolor", "aquarelle", "watercolour painting", "watercolor painting",
        "wash of paint", "wet on wet", "soft washes", "water colours", "water colour", "aquarell",
        "diluted paint", "watercolour on paper", "loose washes",
    ),
    "pencil": (
        "pencil", "pencil drawing", "pencil sketch", "sketch", "graphite", "hand drawn sketch", "charcoal",
        "charcoal drawing", "drawing", "drawn on paper", "line drawing", "sketchbook", "crayon", "etching",
        "black and white sketch", "pencil lines",
    ),
    "ink": (
        "ink", "ink drawing", "black ink", "pen and ink", "sumi-e", "manga", "woodcut", "linocut", "brush ink",
        "comic inks", "calligraphy", "black and white comic", "noir comic", "lino print", "stencil",
        "high contrast ink", "indian ink", "inked",
    ),
    "neon": (
        "neon", "neon lights", "neon glow", "cyberpunk", "glowing lines", "glowing edges", "tron", "synthwave",
        "vaporwave", "neon sign", "neon outlines", "laser lines", "electric glow", "retrowave",
        "fluorescent tubes", "neon city", "outrun", "blacklight",
    ),
    "thermal": (
        "thermal", "thermal camera", "heat map", "heatmap", "infrared", "heat vision", "thermal imaging",
        "predator vision", "infra red", "flir", "false colour heat", "thermography", "heat camera",
    ),
    "pixel": (
        "pixel art", "pixels", "pixelated", "8-bit", "8 bit", "16-bit", "retro game", "pixel", "blocky",
        "mosaic", "lego", "minecraft", "low resolution game", "sprite", "pixelart", "arcade game",
        "old video game", "nes game", "voxel",
    ),
    "cel": (
        "cartoon", "anime", "cel shading", "cel shaded", "comic", "comic book", "toon", "animated film",
        "ghibli", "disney", "toon shading", "graphic novel", "flat colours with outlines", "cel", "animation",
        "pop art", "pixar", "borderlands", "cartoonish",
    ),
    "night": (
        "night", "at night", "midnight", "moonlight", "moonlit", "dark night", "nighttime", "night scene",
        "nocturnal", "after dark", "day for night", "dusk", "in the dark", "starry night sky", "moonlit scene",
    ),
    "vintage": (
        "vintage", "old film", "faded photo", "retro photo", "1970s", "polaroid", "film grain", "analog film",
        "old photograph", "nostalgic", "faded film", "70s", "retro film", "lomography", "kodachrome",
        "super 8", "old movie", "analogue",
    ),
}  # fmt: skip

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": (
        "red", "crimson", "scarlet", "ruby", "blood red", "red tones", "in red", "reddish", "vermilion",
        "carmine",
    ),
    "blue": (
        "blue", "azure", "cobalt", "navy", "ultramarine", "blue tones", "in blue", "bluish", "sapphire",
        "indigo",
    ),
    "green": (
        "green", "emerald", "forest green", "lime", "green tones", "in green", "greenish", "jade",
        "matrix green",
    ),
    "teal": (
        "teal", "turquoise", "cyan", "aqua", "teal tones", "in teal", "aquamarine", "petrol",
    ),
    "sepia": (
        "sepia", "brown tones", "sepia toned", "brownish", "in sepia", "brown tint", "antique brown",
        "coffee stained",
    ),
    "warm": (
        "warm", "warm colours", "golden hour", "sunset", "warm light", "golden", "sunny", "warm tones",
        "orange glow", "autumn", "amber",
    ),
    "cold": (
        "cold", "cool colours", "icy", "winter", "cold light", "frosty", "cool tones", "frozen", "cold tones",
        "wintry",
    ),
    "pastel": (
        "pastel", "pastel colours", "pale colours", "soft colours", "pale", "light colours", "candy colours",
        "pastel tones", "baby colours", "bleached",
    ),
}  # fmt: skip

WEAK_WORDS = ("slightly", "subtle", "a little", "a hint of", "a touch of", "faint", "light", "mild", "barely")
STRONG_WORDS = ("very", "strong", "heavy", "extreme", "bold", "intense", "fully")
SUBJECTS = (
    "a person", "a woman", "a man", "my face", "a cat", "a dog", "a singer on a stage", "a city street",
    "a dancer", "a house", "the sea", "a forest", "flowers", "a portrait", "a landscape", "people",
    "a guitar player", "a car", "the room", "mountains", "a child", "a band", "this scene", "a horse",
    "a garden", "hands", "a crowd", "the camera",
)  # fmt: skip
FILLERS = (
    "beautiful", "detailed", "high quality", "4k", "masterpiece", "trending", "cinematic", "dramatic",
    "moving", "amazing", "best", "hd", "live", "smooth", "stunning", "highly detailed", "award winning",
    "elegant", "soft", "light", "expressive", "delicate", "old", "modern", "simple", "colourful", "clean",
    "huge", "everywhere", "all over",
)  # fmt: skip
STRANGE = (
    "dragon", "spaceship", "robot", "underwater", "zombie", "castle", "jungle", "made of glass", "clay",
    "statue", "marble", "wearing a hat", "fire", "explosion", "medieval knight", "balloon", "alien",
    "steampunk", "origami", "skeleton", "cheese", "dinosaur", "cloud", "train", "banana", "wool", "sushi",
    "pirate", "planet", "quantum", "mechanical", "ghost", "bubbles", "lightning", "sculpture", "desert",
    "samurai", "astronaut", "tiger", "snow", "eating", "flying", "running", "football", "whale", "kitchen",
    "wizard", "wings", "money", "meeting", "weather", "annual report", "number", "football match", "computer",
    "music", "tomorrow", "bicycle", "river", "bridge", "hair", "beard", "mask", "crown", "elephant", "coffee",
    "holiday", "doctor", "machine gun", "fish", "chair", "unicorn", "market", "science", "theory", "of course",
    "please help", "hello", "what is this", "table", "seven", "eleven",
)  # fmt: skip
TEMPLATES = (
    "{look}", "{look} style", "{look} of {subject}", "{subject} in the style of {look}", "{subject}, {look}",
    "in {look} style", "a {look}", "{subject} as {look}", "make it look like {look}", "{filler} {look}",
    "{look}, {filler}", "{filler} {look} of {subject}, {filler}", "turn {subject} into {look}", "{look} look",
    "{subject} {look}", "{look} effect", "render as {look}", "{subject} painted as {look}, {filler}, {filler}",
    "an {look} of {subject}", "i want {look}", "looks like {look}", "{look} video of {subject}",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A prompt and what it asks for: weights that sum to 1, and how much of it means nothing to the model."""

    text: str
    looks: np.ndarray
    colours: np.ndarray
    unknown: float


def misspell(word: str, rng: np.random.Generator) -> str:
    """One letter dropped, doubled, swapped or replaced, inside words long enough to stay recognisable."""
    if len(word) < 5:
        return word
    at = int(rng.integers(1, len(word) - 1))
    letter = chr(97 + int(rng.integers(26)))
    return (
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
        word[:at] + letter + word[at + 1 :],
    )[int(rng.integers(4))]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _nonsense(rng: np.random.Generator) -> str:
    """A word of no language; half of them can be pronounced."""
    if rng.random() < 0.5:
        return "".join(
            _pick(tuple("bcdfghklmnprstvwz"), rng) + _pick(tuple("aeiou"), rng) for _ in range(rng.integers(2, 5))
        )
    return "".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(3, 9))))


def draw(rng: np.random.Generator, look: int | None = None, colour: int | None = None) -> Reading:
    """A prompt with its reading; look and colour (indices) are drawn where they are not given."""
    looks, colours = np.zeros(len(LOOK_NAMES)), np.zeros(len(COLOUR_NAMES))
    is_free = look is None and colour is None
    if is_free and rng.random() < 0.2:
        looks[0] = colours[0] = 1
        if rng.random() < 0.15:
            return Reading("", looks, colours, 0.0)
        words = [_nonsense(rng) if rng.random() < 0.4 else _pick(STRANGE, rng) for _ in range(int(rng.integers(1, 4)))]
        joined = [*words, _pick(SUBJECTS, rng)] if rng.random() < 0.5 else words
        return Reading(" ".join(joined), looks, colours, 1.0)
    look = int(rng.integers(len(LOOK_NAMES))) if look is None else look
    if colour is None:
        colour = 0 if rng.random() < 0.5 else int(rng.integers(1, len(COLOUR_NAMES)))
    looks[look], colours[colour] = 1, 1
    phrase = _pick(LOOK_WORDS[LOOK_NAMES[look]], rng)
    if is_free and look and rng.random() < 0.08:
        second = int(rng.integers(1, len(LOOK_NAMES)))
        phrase = (
            f"{phrase} {_pick(('and', 'mixed with', 'meets', '+'), rng)} {_pick(LOOK_WORDS[LOOK_NAMES[second]], rng)}"
        )
        looks[look] -= 0.5
        looks[second] += 0.5
    elif is_free and look and rng.random() < 0.08:
        phrase = f"{_pick(WEAK_WORDS, rng)} {phrase}"
        looks[look], looks[0] = 0.5, 0.5
    elif rng.random() < 0.08:
        phrase = f"{_pick(STRONG_WORDS, rng)} {phrase}"
    tint = _pick(COLOUR_WORDS[COLOUR_NAMES[colour]], rng) if colour else ""
    if look == 0 and colour and rng.random() < 0.7:
        before, after = (
            _pick(("", "make it", "everything", "all", "a"), rng),
            _pick(("", "light", "picture", "mood"), rng),
        )
        text = f"{before} {tint} {after}"
    else:
        if tint and rng.random() < 0.5:
            phrase = f"{tint} {phrase}"
        text = _pick(TEMPLATES, rng).format(look=phrase, subject=_pick(SUBJECTS, rng), filler=_pick(FILLERS, rng))
        if tint and tint not in text:
            text = f"{text}{_pick((', ', ' in ', ' with ', ' '), rng)}{tint}"
    unknown = 0.0
    if rng.random() < 0.25:
        strange = _nonsense(rng) if rng.random() < 0.3 else _pick(STRANGE, rng)
        text, unknown = f"{text} {_pick(('with', 'and', ',', 'of'), rng)} {strange}", 0.5
    words = text.split()
    if rng.random() < 0.3:
        at = int(rng.integers(len(words)))
        words[at] = misspell(words[at], rng)
    text = " ".join(words)
    return Reading(text.upper() if rng.random() < 0.03 else text, looks, colours, unknown)
