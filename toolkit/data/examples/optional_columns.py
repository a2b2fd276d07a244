"""Which columns of a suggested prompt may be empty: their missing cells count as empty text, and no row is skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolkit.data.examples import column_names as names
from toolkit.data.table import Table

_SLOT = re.compile(r"\{([^{}]+)\}")
_OPTIONAL = names.INPUTS | names.CONTEXTS | names.SUBJECTS | names.CHOICES
"""Names of columns that add to a request and are often empty, as Alpaca's input is."""


def find_optional_columns(prompt: str, completion: str, table: Table) -> tuple[str, ...]:
    """Return the columns of the prompt with missing cells without which the prompt still asks something.

    They add to another column by their name, or by their place in the template: next to the column of the request.
    """
    used = list(dict.fromkeys(_SLOT.findall(prompt)))
    gaps = [column for column in used if 0 < table.missing.get(column, 0) < table.rows]
    main = _main_columns(used, table)
    return tuple(column for column in gaps if column not in main and f"{{{column}}}" not in completion)


def _main_columns(used: Sequence[str], table: Table) -> list[str]:
    """Return the columns that make the request; without any of these names, the ones with the fewest gaps."""
    named = {column: names.normalize_column_name(column).rstrip("0123456789").strip() for column in used}
    letters = [column for column in used if names.read_choice_letter(named[column])]
    others = [column for column in used if named[column] not in _OPTIONAL and column not in letters]
    asked = [column for column in others if names.match_name(named[column], names.REQUESTS)]
    texts = asked or [column for column in others if names.match_name(named[column], names.TEXTS | names.SPEAKERS)]
    rest = texts or others or list(used)
    fewest = min((table.missing.get(column, 0) for column in rest), default=0)
    return [*(texts or [column for column in rest if table.missing.get(column, 0) == fewest]), *letters]
