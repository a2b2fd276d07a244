"""Pieces of text concatenate to the whole text, wherever tokens split characters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.worker.serving.text_stream import TextStream

SPECIAL = 256


def as_bytes(ids: list[int]) -> str:
    """Decode one byte per token, the worst case of byte-level BPE, with one special token that is skipped."""
    return bytes(i for i in ids if i != SPECIAL).decode("utf-8", errors="replace")


def feed(ids: list[int], cuts: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream, pieces, at = TextStream(as_bytes, stops), [], 0
    for cut in cuts:
        pieces.append(stream.push(ids[at : at + cut]))
        at += cut
    pieces += [stream.push(ids[at:]), stream.finish()]
    return pieces, stream


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, SPECIAL), max_size=60), st.lists(st.integers(1, 4), max_size=60))
def test_pieces_concatenate_to_the_decoded_text(ids: list[int], cuts: list[int]) -> None:
    pieces, stream = feed(ids, cuts)
    assert "".join(pieces) == as_bytes(ids) == stream.text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.lists(st.integers(1, 3), max_size=80))
def test_no_piece_has_an_incomplete_character(text: str, cuts: list[int]) -> None:
    pieces, _ = feed(list(text.replace("\ufffd", "").encode()), cuts)
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.text("abEND. ", max_size=40), st.lists(st.integers(1, 3), max_size=60))
def test_a_stop_text_ends_the_answer_and_is_not_shown(text: str, cuts: list[int]) -> None:
    pieces, stream = feed(list(text.encode()), cuts, ("END", ". "))
    ends = [at for at in (text.find("END"), text.find(". ")) if at >= 0]
    assert "".join(pieces) == (text[: min(ends)] if ends else text)
    assert stream.stopped == bool(ends)


def test_text_is_returned_as_soon_as_it_is_complete() -> None:
    stream = TextStream(as_bytes, ("STOP",))
    assert stream.push(list(b"hello ")) == "hel"  # three characters may still belong to a stop text
    euro = "€".encode()
    assert TextStream(as_bytes).push([*b"a", *euro[:2]]) == ""
    open_stream = TextStream(as_bytes)
    assert [open_stream.push([*b"a"]), open_stream.push([*euro[:2]]), open_stream.push([euro[2]])] == ["a", "", "€"]
