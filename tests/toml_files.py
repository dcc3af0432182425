"""Recipes of the tests, written as TOML."""

import json
from typing import Any


def toml_of(facts: dict[str, Any], table: str = "") -> str:
    """What is written in JSON, TOML reads too, but for tables and NaN; None is left out."""
    facts = {key: value for key, value in facts.items() if value is not None}
    plain = {key: value for key, value in facts.items() if not isinstance(value, dict)}
    lines = [f"[{table}]"] * bool(table)
    lines += [f"{key} = {json.dumps(x).replace('NaN', 'nan')}" for key, x in plain.items()]
    inner = (f"{table}.{key}".lstrip(".") for key in facts if key not in plain)
    tables = (value for key, value in facts.items() if key not in plain)
    parts = [*lines, *(toml_of(x, t) for t, x in zip(inner, tables, strict=True))]
    return "\n".join(parts) + "\n"
