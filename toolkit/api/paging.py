"""Lists in OpenAI's format: pages of objects after a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from toolkit.worker.serving.request_models import RequestError

ListedItem = TypeVar("ListedItem")


def read_limit(query: QueryParams, default: int, largest: int) -> int:
    """Return the parameter `limit`. Raises RequestError: it is not a whole number from 1 to `largest`."""
    text = query.get("limit", str(default))
    if text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= largest:
        return int(text)
    message = f"'limit' is '{text[:40]}'."
    raise RequestError(message, f"Use a whole number from 1 to {largest:,}.", param="limit")


def cut_page(
    items: Sequence[ListedItem],
    name_of: Callable[[ListedItem], str],
    query: QueryParams,
    default: int = 20,
    largest: int = 100,
) -> tuple[Sequence[ListedItem], bool]:
    """Return (the items of the page that the query asks for, whether more follow).

    name_of: the id of an item. Raises RequestError: there is no item with the id `after`, or the limit is invalid.
    """
    limit = read_limit(query, default, largest)
    first = 0
    after = query.get("after")
    if after:
        first = next((at for at, item in enumerate(items, start=1) if name_of(item) == after), 0)
        if not first:
            message = f"There is no '{after[:80]}' in this list."
            raise RequestError(message, "Use the ID of the last object of the page before.", param="after")
    return items[first : first + limit], first + limit < len(items)


def list_body(page: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return the JSON object of one page."""
    ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"object": "list", "data": list(page), "first_id": ends[0], "last_id": ends[1], "has_more": has_more}
