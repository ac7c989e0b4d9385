"""The reference page of all parameters, made from the table: `python -m sdv2live.reference` writes it.

Owns the page's form; every name, range and word on it is the table's.
"""

from __future__ import annotations

from sdv2live.filters import STEPS
from sdv2live.parameters import TABLE, Kind, Parameter, range_text
from sdv2live.paths import assets_dir

PAGE = "docs/parameters.md"
_HEAD = """# Parameters

Made from the parameter table by `python -m sdv2live.reference`; a test compares them. A default of "engine's" is
brought by the engine that is chosen. OSC takes a parameter at any of its addresses; the address alone, or with `?`,
asks for its value. A preset is a JSON file whose `values` have these names as keys.

| name | command line | OSC | kind | range | default | acts at |
| --- | --- | --- | --- | --- | --- | --- |
"""


_FILTERS = """
## Filters

A chain such as `mirror, blur:2, colour:1.3`: steps in order, each with a number or its default, parted by commas.

| step | number, default | where | what it does |
| --- | --- | --- | --- |
"""


def parameters_page() -> str:
    """The whole page, Markdown."""
    rows = "".join(_row(row) for row in TABLE.values())
    words = "".join(f"- `{row.name}`: {row.doc}\n" for row in TABLE.values())
    return f"{_HEAD}{rows}\n## What they do\n{words}{_FILTERS}{''.join(_filter_row(name) for name in STEPS)}"


def _filter_row(name: str) -> str:
    kind = STEPS[name]
    amount = f"{kind.minimum:g} to {kind.maximum:g}, `{kind.default:g}`" if kind.has_amount else "none"
    where = "after the effect" if kind.where == "post" else "before and after"
    return f"| `{name}` | {amount} | {where} | {kind.doc} |\n"


def _row(row: Parameter) -> str:
    flag = "-" if row.kind is Kind.TRIGGER else f"`{row.cli_flag}`"
    addresses = "<br>".join(f"`{address}`" for address in row.osc_addresses) or "-"
    default = "engine's" if row.default is None else "none" if row.default in ((), "") else f"`{row.default}`"
    cells = (f"`{row.name}`", flag, addresses, row.kind.value, range_text(row), default, row.when.value)
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    target = assets_dir() / PAGE
    target.write_text(parameters_page(), "utf-8")
    print(f"written: {target}")
