"""`sdv2live prompt`: what the pocket engine understands of texts, without an engine. Owns: how that is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sdv2live.engine.pocket_words import load_text_encoder, understood_of
from sdv2live.errors import UserError
from sdv2live.parameters import TABLE, InvalidValue, coerce
from sdv2live.paths import assets_dir
from sdv2live.understood import AS_IT_IS, Understood

ENGINE = "pocket"


def report_prompts(texts: Sequence[str], *, as_json: bool) -> int:
    """Print what is understood of each text. Raises UserError for one that could be no prompt."""
    for text in texts:
        _check(text)
    encoder = load_text_encoder(assets_dir() / ENGINE)
    entries = [entry for text in texts for entry in understood_of(text, encoder.understand(text))]
    if as_json:
        print(json.dumps([entry.as_fields() for entry in entries], indent=2, ensure_ascii=False))
        return 0
    for entry in entries:
        print(_line(entry))
    return 0


def _check(text: str) -> None:
    if not any(character.isalnum() for character in text):
        raise UserError(
            f"{text!r} is no prompt: there is not one word in it; write what the picture should become, "
            'such as "oil painting in blue".'
        )
    try:
        coerce(TABLE["prompt.text"], text)
    except InvalidValue as error:
        raise UserError(f"{text[:60]!r} is no prompt: {error}.") from None


def _line(entry: Understood) -> str:
    look = "the picture as it is" if entry.look == AS_IT_IS else entry.look
    parts = [look if entry.weight > 0.999 else f"{entry.weight:.0%} {look}"]
    parts += [] if entry.colour == "none" else [entry.colour]
    parts += [f"strength {entry.strength:.2f}"] if (entry.look, entry.colour) != (AS_IT_IS, "none") else []
    parts += [f"not understood: {' '.join(entry.unknown)}"] if entry.unknown else []
    return f"{entry.text}: {', '.join(parts)}"
