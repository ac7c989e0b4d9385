"""Prompts that the text encoder was never trained on. Owns: the words and sentences that judge it, and their drawing.

Kept apart from `vocabulary.py`: no sentence frame, no synonym and no unknown word of these lists is drawn in training
(a test holds both sides to it), and the slips of the keyboard are made another way. There are three sheets. What
went wrong on the first was looked at while the lists of training were enlarged, and which words of the second were told
as unknown, once, before everyday words were added; the third was written after that and nothing was changed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sheet:
    """Synonyms by look and by colour, words for little and for much, frames with their subjects, and unknown words."""

    synonyms: dict[str, tuple[str, ...]]
    colours: dict[str, tuple[str, ...]]
    weakly: tuple[str, ...]
    strongly: tuple[str, ...]
    frames: tuple[str, ...]
    subjects: tuple[str, ...]
    unknown: tuple[str, ...]


FIRST = Sheet(
    synonyms={
        "identity": (
            "leave it unchanged", "no effects", "without any effect", "untouched original", "plain camera",
            "unaltered", "unedited", "unfiltered", "keep it as it is", "natural photograph", "the raw video",
            "realistic picture", "true to life", "just the camera", "original colours",
        ),
        "oil": (
            "oil-painted canvas", "painted in oils", "oil colours on linen", "thickly painted oils",
            "brushy oil portrait", "oil on board", "old master oil", "alla prima oils", "thick painterly strokes",
            "rough brush painting", "impressionistic painting", "oilpaints", "heavy brushwork",
            "post-impressionist canvas", "oil paints",
        ),
        "watercolour": (
            "watercoloured paper", "water-colour wash", "wet watercolours", "watercolor washes", "aquarelle washes",
            "loose watercolour strokes", "watery washes of colour", "watercolour illustration", "aquarelles",
            "painted in watercolours", "runny watercolour", "soft watercolor bleed", "watercolourist's page",
            "diluted washes", "watercolor painted paper",
        ),
        "pencil": (
            "pencilled", "pencil-drawn lines", "sketched in graphite", "sketchy pencil strokes", "graphite shading",
            "rough sketches", "charcoals", "charcoal shading on paper", "drawn with a pencil",
            "hand-drawn pencil lines", "sketch book page", "graphite pencil hatching", "pencil crosshatching",
            "a drawing in crayons", "pencil art",
        ),
        "ink": (
            "inked lines", "ink brush strokes", "drawn in black ink", "inky black lines", "pen-and-ink hatching",
            "manga page", "mangas", "linocuts", "woodcut print", "woodcuts", "calligraphic ink strokes",
            "india-ink drawing", "black inked comic page", "stencilled black ink", "fountain-pen ink",
        ),
        "neon": (
            "neon-lit", "neon tubes", "glowing neon outlines", "cyberpunk glow", "synthwave neon", "neons",
            "glowing outlines", "luminous neon edges", "neon signage", "tron lines", "electric neon",
            "cyberpunk neons", "retro wave glow", "fluorescent neon glow", "glow-in-the-dark lines",
        ),
        "thermal": (
            "thermal view", "thermal imager", "thermographic", "thermogram", "thermal vision", "infrared vision",
            "infrared camera", "heat signature", "heat cam", "thermal scope", "thermal heat map", "heatmaps",
            "infra-red imaging", "heat sensing camera", "thermal goggles",
        ),
        "pixel": (
            "pixelart sprites", "pixelised", "pixelled", "pixelation", "8bit graphics", "16bit game", "big pixels",
            "chunky pixels", "retro pixel game", "pixel-game sprites", "mosaic blocks", "blocky pixels",
            "low-res pixels", "retro videogame", "minecraft blocks",
        ),
        "cel": (
            "cartoons", "cartoony", "toon-shaded", "cel-shaded cartoon", "comics", "comic strip", "animated cartoon",
            "anime film", "animes", "cartoon character", "comic books", "studio ghibli anime", "flat toon colours",
            "cell shaded", "disney cartoon",
        ),
        "night": (
            "nightly", "nights", "moonlit night", "midnight scene", "dark midnight", "nightfall", "under moonlight",
            "late at night", "lit by the moon", "by moonlight", "nocturnal scene", "darkness of night", "nightscape",
            "night shot", "a moonless night",
        ),
        "vintage": (
            "vintage film", "old-film grain", "grainy old film", "faded polaroid", "polaroids", "1970s film",
            "nostalgic film", "analogue film grain", "retro film look", "vintage photograph", "seventies vintage",
            "aged photograph", "super-8 film", "kodachrome slide", "old grainy movie",
        ),
        "halftone": (
            "halftones", "half-toned comic", "halftone raster", "ben-day dotted print", "pop-art painting",
            "popart posters", "lichtenstein dots", "warhol's silkscreens", "screen-printed dots", "dotted newsprint",
            "a comic printed in dots", "coloured print dots", "halftone printing", "dotty pop art",
            "risograph printing",
        ),
        "glass": (
            "stained-glass picture", "staind glass", "stained church glass", "leaded glass panes", "a leaded pane",
            "coloured panes of glass", "tiffany-glass window", "glass-painted", "church windows of coloured glass",
            "lead-lined glass", "pieces of stained glass", "glass set into lead", "stained glass panels",
            "leadlight window", "backlit stained glass",
        ),
    },
    colours={
        "red": ("rose red", "cherry red", "red-tinted", "reddened", "deep reds"),
        "blue": ("sky blue", "blue-tinted", "bluish tones", "deep blues", "cobalt blue"),
        "green": ("grassy green", "green-tinted", "mossy green", "lime green", "deep greens"),
        "teal": ("turquoise tint", "teal-coloured", "cyan tint", "turquoise tones", "teals"),
        "sepia": ("sepia-tinted", "brown-toned", "sepia tint", "sepia brown", "old sepia"),
        "warm": ("warmly lit", "golden light", "warm glow", "sunset glow", "warm amber light"),
        "cold": ("coldly lit", "ice-cold light", "cool-toned", "wintery", "cold icy tones"),
        "pastel": ("pastels", "pastel-toned", "pale pastel", "soft pastels", "pastel shades"),
    },
    weakly=("just slightly", "a slight", "a bit of", "gentle", "lightly", "a trace of", "only a little"),
    strongly=("very strong", "strongly", "heavily", "really intense", "extremely bold"),
    frames=(
        "please render the whole picture as {look}", "could you give me {look} here",
        "i would like everything to be {look}", "{subject} shown as {look}", "{look} version of {subject}",
        "convert {subject} to {look}", "apply {look} to {subject}", "something like {look}", "{subject} but {look}",
        "think {look}", "go for {look} now", "switch to {look}", "{subject} done in {look}", "show us {look}",
        "change the picture into {look}", "{look} please", "{subject} with a {look} feel",
        "the whole thing should look {look}", "let's try {look}", "give {subject} a {look} treatment",
        "i need {look} for {subject}", "more {look}", "can we have {look} on {subject}?", "{look}, thank you",
    ),
    # What stands before a camera: ordinary words, no part of the separation.
    subjects=(
        "my grandmother", "the singer", "a drummer", "our living room", "the stage", "two friends", "a baby",
        "my hand", "the street outside", "a bird", "a glass of water", "the window", "an old man", "the teacher",
        "trees", "my desk", "a boy with a ball", "the whole band", "a field of grass", "her smile",
    ),
    # Ordinary words, other arts, near spellings of words that are known, other languages and nonsense.
    unknown=(
        "octopus", "chess", "volcano", "accordion", "submarine", "cactus", "typewriter", "parliament", "invoice",
        "spreadsheet", "hovercraft", "pineapple", "cathedral", "gargoyle", "mermaid", "werewolf", "centaur",
        "gladiator", "cowboy", "viking", "basketball", "saxophone", "microscope", "helicopter", "chandelier",
        "lighthouse", "windmill", "hedgehog", "crocodile", "flamingo", "jellyfish", "butterfly", "mushroom",
        "broccoli", "spaghetti", "hamburger", "chocolate", "umbrella", "suitcase", "parachute", "escalator",
        "refrigerator", "telescope", "democracy", "philosophy", "algebra", "mortgage", "insurance", "election",
        "bankruptcy", "grammar", "nebula", "asteroid", "satellite", "tornado", "avalanche", "earthquake", "glacier",
        "tapestry", "cubism", "bauhaus", "claymation", "art deco", "graffiti", "hologram", "x-ray", "embroidery",
        "knitted", "papercraft", "brutalist", "rococo", "gothic", "dadaism", "wireframe", "blueprint", "papyrus",
        "terracotta", "waterfall", "inkwell", "nightingale", "thermos", "neonatal", "pixie", "vineyard", "celery",
        "redwood", "oilfield", "peinture", "zeichnung", "lapiz", "fotografia", "schwarzweiss", "qwrtp", "blorf",
        "zzyx", "florpington", "xkqjz", "wvut", "snarfle", "grumbo", "asdfgh", "vlimpt", "ploktu", "hjkl",
    ),
)  # fmt: skip

SECOND = Sheet(
    synonyms={
        "identity": (
            "without a filter", "normal video", "exactly as filmed", "do nothing", "the unprocessed camera",
            "natural look", "keep everything natural",
        ),
        "oil": (
            "canvas painting in oils", "thick impasto paint", "monet painting", "like van gogh",
            "brush-painted portrait", "classic oil artwork",
        ),
        "watercolour": (
            "wet watercolour paint", "watercolours on wet paper", "light aquarelle", "watercolour splashes",
            "washed watercolour art", "flowing water colours",
        ),
        "pencil": (
            "graphite pencil sketch", "quick charcoal drawing", "sketchbook pencil page", "shaded pencil portrait",
            "sketching with charcoal", "black pencil strokes",
        ),
        "ink": (
            "japanese ink painting", "manga ink drawing", "black pen drawing", "woodcut in black ink", "comic inking",
            "ink-brush calligraphy",
        ),
        "neon": (
            "bright neon lines", "neon cyberpunk city", "glowing laser edges", "synthwave glow",
            "neon-coloured outlines", "glow like tron",
        ),
        "thermal": (
            "thermal heat camera", "infrared thermal image", "heat map colours", "temperature map view",
            "flir thermal camera", "heat in false colours",
        ),
        "pixel": (
            "8-bit pixel art", "pixelated arcade game", "old nintendo game", "low-resolution pixels", "lego blocks",
            "pixelated mosaic",
        ),
        "cel": (
            "anime cartoon", "cartoon with bold outlines", "comic-book style animation", "japanese anime film",
            "toon-like shading", "disney animation",
        ),
        "night": (
            "dark night scene", "moonlit midnight", "night under the stars", "deep dark night", "starry midnight sky",
            "nightly moonlight",
        ),
        "vintage": (
            "grainy vintage photo", "old faded film", "retro polaroid", "1980s home movie", "analog film camera",
            "aged vintage photograph",
        ),
        "halftone": (
            "printed halftone comic", "pop art with ben day dots", "lichtenstein pop art", "newsprint halftone",
            "silkscreen print dots", "dots of a comic print",
        ),
        "glass": (
            "stained glass church window", "tiffany stained glass", "leaded stained glass", "panes of coloured glass",
            "window of stained glass", "glass in lead lines",
        ),
    },
    colours={
        "red": ("bright crimson", "ruby tones"),
        "blue": ("navy tones", "azure light"),
        "green": ("emerald light", "olive tones"),
        "teal": ("cyan colours", "aqua tint"),
        "sepia": ("sepia shade", "brown sepia"),
        "warm": ("warm sunset", "amber light"),
        "cold": ("frosty light", "cold winter tones"),
        "pastel": ("soft pastel", "candy pastel"),
    },
    weakly=("ever so slightly", "a tad", "softly hinted", "not much", "a small amount of"),
    strongly=("super strong", "as much as possible of", "seriously heavy", "really bold"),
    frames=(
        "would you turn the video into {look}?", "i am after {look}", "{subject}, but make it {look}",
        "do something with {look}", "have {subject} appear in {look}", "we need {look} on the screen",
        "could it be {look} instead?", "how about {look}", "put {subject} into {look}", "{look} would be great",
        "start with {look}", "my stream should be {look}", "change to {look} for the next song",
        "show the crowd through {look}", "next up: {look}", "back to {look}",
    ),
    subjects=(
        "the bass player", "my little sister", "a plate with cake", "the front row", "a kitchen", "two cats",
        "an empty street", "the choir", "someone dancing", "my colleague",
    ),
    unknown=(
        "trombone", "kumquat", "bagpipes", "zucchini", "tambourine", "manatee", "narwhal", "pretzel", "lasagna",
        "burrito", "croissant", "hieroglyph", "sarcophagus", "trapeze", "gondolier", "escarpment", "archipelago",
        "fjord", "tundra", "savanna", "monsoon", "equinox", "eclipse", "supernova", "wormhole", "pterodactyl",
        "velociraptor", "sasquatch", "kraken", "banshee", "gnome", "ogre", "yeti", "subpoena", "tariff", "ledger",
        "quarterback", "touchdown", "marzipan", "cubist", "art nouveau", "vorticism", "decoupage", "filigree",
        "scrimshaw", "stucco", "thatched", "cobblestone", "maypole", "dromedary", "brzt", "mlorp", "quandle", "vexnib",
    ),
)  # fmt: skip
THIRD = Sheet(
    synonyms={
        "identity": ("the untouched video", "original camera picture", "without changes", "keep it real"),
        "oil": ("thick strokes of oil paint", "rembrandt portrait", "oil-on-canvas style", "impressionist canvas"),
        "watercolour": ("delicate watercolour washes", "wet aquarelle", "watercolour sketching", "runny water colours"),
        "pencil": ("soft charcoal sketch", "pencil doodle", "graphite portrait", "hand-drawn sketches"),
        "ink": ("sumi-e brush ink", "black woodcut", "inked manga panel", "drawn with pen and ink"),
        "neon": ("neon glowing contours", "cyberpunk neon lights", "electric laser lines", "vaporwave glow"),
        "thermal": ("heat vision camera", "thermal infrared", "predator heat vision", "thermography picture"),
        "pixel": ("retro 8-bit game", "minecraft pixels", "blocky game sprite", "pixelated squares"),
        "cel": ("ghibli cartoon", "animated comic book", "cel-shaded anime", "cartoonish comic"),
        "night": ("moonlit dark night", "after midnight", "starlit nighttime", "dark evening by moonlight"),
        "vintage": ("faded old polaroid", "grainy analog photo", "nostalgic old movie", "retro film grain"),
        "halftone": ("pop art halftone", "dotted comic print", "ben day halftone", "warhol silkscreen"),
        "glass": ("stained glass in lead", "a stained glass", "coloured leaded glass", "church stained glass"),
    },
    colours={
        "red": ("scarlet light", "crimson tones"),
        "blue": ("cobalt tones", "sapphire light"),
        "green": ("jade tones", "emerald tint"),
        "teal": ("turquoise hue", "aqua light"),
        "sepia": ("antique sepia", "brownish tones"),
        "warm": ("golden tones", "sunny warm colours"),
        "cold": ("icy tones", "frosty colours"),
        "pastel": ("pale pastel tones", "pastel candy colours"),
    },
    weakly=("only very slightly", "a faint touch of", "subtle hints of", "half strength"),
    strongly=("extremely strong", "very heavy", "very intensely", "maximum strength"),
    frames=(
        "i'd love {look}", "{subject} becomes {look}", "let the video look as if it was {look}", "go {look}",
        "for this song use {look}", "{look} on everything", "make {subject} appear as {look}", "same again in {look}",
        "what about {look}?", "now try {look} with {subject}", "{subject} seen as {look}", "a bit later {look}",
    ),
    subjects=(
        "my neighbour", "the lead guitarist", "a bowl of soup", "the back door", "our teacher", "three children",
        "a busy market", "a waiter", "somebody at a table", "the tall tree",
    ),
    unknown=(
        "platypuses", "tractors", "didgeridoo", "cauliflower", "artichoke", "sphinx", "pharaoh", "minotaurs", "cyclops",
        "hippopotamus", "wolverine", "quicksand", "geode", "stalactite", "hydrogen", "calculus", "bureaucracy",
        "lawsuit", "referee", "goalkeeper", "slalom", "origamist", "mosaicist", "etruscan", "expressionless",
        "hovering", "levitation", "teleport", "cryptocurrency", "firewall", "kernel", "wizardry", "vampires",
        "gelato", "tiramisu", "sombrero", "chopsticks", "boomerangs", "zorp", "klimf", "wuzzle", "prandic",
    ),
)  # fmt: skip
SHEETS = {"first": FIRST, "second": SECOND, "third": THIRD}

UNKNOWN_FRAMES = ("{odd}", "a {odd}", "{odd} and {other}", "{subject} with a {odd}", "{look} with a {odd}",
                  "{odd} in {look}")  # fmt: skip

# Whole prompts with what they ask for, and some that ask for nothing the model has; as people wrote them.
SENTENCES: tuple[tuple[str, str, str], ...] = (
    ("an expressive oil portrait on canvas", "oil", "none"),
    ("oil-painted scenery with visible brushwork", "oil", "none"),
    ("blue oill paintng", "oil", "blue"),
    ("delicate water-color illustration", "watercolour", "none"),
    ("watercolours in pale pastels", "watercolour", "pastel"),
    ("waterclor washes of a street", "watercolour", "none"),
    ("sketched with a soft graphite pencil", "pencil", "none"),
    ("pencill sketches of my friends", "pencil", "none"),
    ("a red pencil study", "pencil", "red"),
    ("inky brush drawing, manga page", "ink", "none"),
    ("pen & ink illustration", "ink", "none"),
    ("neon-lit outlines, cyber punk", "neon", "none"),
    ("glowing neons everywhere in teal", "neon", "teal"),
    ("thermal-imaging footage", "thermal", "none"),
    ("seen through an infrared heat camera", "thermal", "none"),
    ("pixelated 8bit videogame", "pixel", "none"),
    ("green gameboy pixel-art", "pixel", "green"),
    ("saturday morning cartoons", "cel", "none"),
    ("animé film with warm colors", "cel", "warm"),
    ("cel-shaded comicbook hero", "cel", "none"),
    ("moonlit streets at midnight", "night", "none"),
    ("a cold night outside", "night", "cold"),
    ("faded vintage photos from the 1970s", "vintage", "none"),
    ("sepia vintage filmstock", "vintage", "sepia"),
    ("comic-halftone in warm colours", "halftone", "warm"),
    ("lichtenstein pop-art with dots", "halftone", "none"),
    ("a stained-glass saint in a church window", "glass", "none"),
    ("blue stainedglass", "glass", "blue"),
    ("the original picture, unchanged please", "identity", "none"),
    ("a bluish tint", "identity", "blue"),
    ("warm golden light", "identity", "warm"),
    ("", "identity", "none"),
)  # fmt: skip
# Of everyday words and others, none of which asks for anything: all of it is to be told.
UNKNOWN_SENTENCES = (
    "a giant octopus playing chess", "quarterly revenue", "xkqjz wvut", "volcano eruption on mars", "a banana",
    "queen of the castle riding an elephant", "a lion eating pizza in the desert", "three bicycles and a dragon",
    "my grandmother as a robot", "hello there", "can you hear me", "make it good please", "tea time",
    "an astronaut on a horse", "the opera house in sydney", "a sports car", "two kittens playing",
    "happy birthday anna",
)  # fmt: skip

_NEIGHBOURS = dict(zip("abcdefghijklmnopqrstuvwxyz", "svxfrdhjkjklnmiowtdyibezux", strict=True))


@dataclass(frozen=True, slots=True)
class Phrase:
    """A prompt and what it should be read as. odd: words in it that mean nothing to the model. grade: weak, plain,
    strong. is_misspelt: with one slip of the keyboard in it."""

    text: str
    look: str
    colour: str = "none"
    odd: tuple[str, ...] = ()
    grade: str = "plain"
    is_misspelt: bool = False


def slip(text: str, rng: np.random.Generator) -> tuple[str, bool]:
    """One slip in one word of five letters or more: a key beside, a letter left out, two swapped, one hit twice, or a
    gap forgotten between two words; and whether there was a word to slip in."""
    words = text.split()
    places = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not places:
        return text, False
    at = places[int(rng.integers(len(places)))]
    word, k = words[at], int(rng.integers(1, len(words[at]) - 1))
    kind = int(rng.integers(9))
    if kind == 8 and at + 1 < len(words):
        words[at : at + 2] = [word + words[at + 1]]
    else:
        words[at] = (
            word[:k] + _NEIGHBOURS.get(word[k], word[k]) + word[k + 1 :],
            word[:k] + word[k + 1 :],
            word[:k] + word[k + 1] + word[k] + word[k + 2 :],
            word[: k + 1] + word[k:],
        )[kind % 4]
    return " ".join(words), True


def understood_phrases(sheet: Sheet, seed: int = 0, per_look: int = 60) -> list[Phrase]:
    """The same for every call: all looks alike often, a third with a colour, a third misspelt, some weak or strong."""
    rng = np.random.default_rng((seed, 4))
    phrases = []
    for look, synonyms in sheet.synonyms.items():
        for number in range(per_look):
            wording = synonyms[number % len(synonyms)]
            colour, grade = "none", "plain"
            if look != "identity" and (chance := rng.random()) < 0.3:
                grade = "weak" if chance < 0.15 else "strong"
                wording = f"{_pick(sheet.weakly if grade == 'weak' else sheet.strongly, rng)} {wording}"
            elif look != "identity" and rng.random() < 0.45:
                colour = _pick(tuple(sheet.colours), rng)
                wording = f"{_pick(sheet.colours[colour], rng)} {wording}"
            text = _pick(sheet.frames, rng).format(look=wording, subject=_pick(sheet.subjects, rng))
            is_misspelt = False
            if number % 3 == 2:
                text, is_misspelt = slip(text, rng)
            phrases.append(Phrase(text, look, colour, (), grade, is_misspelt))
    return phrases


def unknown_phrases(sheet: Sheet, seed: int = 0, rounds: int = 4) -> list[Phrase]:
    """Every unknown word `rounds` times, alone, beside another one, with a subject, and with a look."""
    rng = np.random.default_rng((seed, 5))
    phrases = []
    for number in range(rounds * len(sheet.unknown)):
        odd, other = sheet.unknown[number % len(sheet.unknown)], _pick(sheet.unknown, rng)
        frame = _pick(UNKNOWN_FRAMES, rng)
        look = _pick(tuple(sheet.synonyms), rng)
        text = frame.format(
            odd=odd, other=other, look=_pick(sheet.synonyms[look], rng), subject=_pick(sheet.subjects, rng)
        )
        odds = (odd, other) if "{other}" in frame else (odd,)
        phrases.append(Phrase(text, look if "{look}" in frame else "identity", odd=odds))
    return phrases


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
