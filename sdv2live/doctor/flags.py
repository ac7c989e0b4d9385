"""From values that hold to the command line that asks for them, so that another process runs what this one runs."""

from __future__ import annotations

from sdv2live.parameters import TABLE, Kind, Parameter, Value
from sdv2live.registry import Registry

# What a rehearsal is to have as the show has it; where pictures go is not among it.
OF_THE_SHOW = (
    "prompt.text",
    "steps.",
    "noise.",
    "schedule",
    "engine.",
    "source.",
    "input.",
    "output.filters",
    "output.rate",
)


def flags_of(registry: Registry) -> list[str]:
    """What somebody chose of a show, a word each."""
    rows = (row for row in TABLE.values() if row.name.startswith(OF_THE_SHOW) and row.kind is not Kind.TRIGGER)
    return [flag_of(row, registry.get(row.name)) for row in rows if registry.is_user_set(row.name)]


def flag_of(row: Parameter, value: Value) -> str:
    """`--size=256x256`; not for a mix, which is several words."""
    match row.kind:
        case Kind.BOOL:
            return row.cli_flag if value else f"--no-{row.cli_flag.removeprefix('--')}"
        case Kind.SIZE if isinstance(value, tuple):
            return f"{row.cli_flag}={'x'.join(map(str, value))}"
        case Kind.INTS if isinstance(value, tuple):
            return f"{row.cli_flag}={','.join(map(str, value))}"
    return f"{row.cli_flag}={value}"
