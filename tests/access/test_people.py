"""Whom the list of people admits, which folder a person gets, and which paths are outside of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.access.own_folder import is_path_outside, list_person_folders, prepare_person_folder
from toolkit.access.people import Person, admit_person, read_admission_rules
from toolkit.errors import SignInError

ISSUER = "https://id.example"
RULES = read_admission_rules({"allow": ["ann@example.com", "@lab.example", f"{ISSUER}|kim|7"]})


def claims(email: Any = "ann@example.com", verified: Any = True, **more: Any) -> dict[str, Any]:
    return {"iss": ISSUER, "sub": "1", "email": email, "email_verified": verified, "name": "Ann", **more}


@pytest.mark.parametrize("email", ["ann@example.com", "ANN@Example.COM", "anybody@lab.example", "a.b+c@LAB.example"])
def test_people_on_the_list_come_in(email: str) -> None:
    assert admit_person(claims(email), RULES).email == email


@pytest.mark.parametrize(
    "email",
    [
        "ben@example.com",
        "ann@example.com.evil.example",
        "ann@evil.example@lab.example",
        "x@sub.lab.example",
        "x@evillab.example",
        "ann @example.com",
        "@lab.example",
        "lab.example",
        "",
        None,
        7,
        ["ann@example.com"],
        "ann@example.com x@lab.example",
        "\u212aim@lab.example",
        "ann@la\u0432.example",
        "ann\u200b@example.com",
        "a|b@lab.example",
    ],
)
def test_other_addresses_do_not(email: Any) -> None:
    with pytest.raises(SignInError, match="not on the list"):
        admit_person(claims(email), RULES)


@pytest.mark.parametrize("verified", [False, None, "true", "false", 1, 0, "", [True]])
def test_an_address_counts_only_if_the_provider_has_verified_it(verified: Any) -> None:
    with pytest.raises(SignInError, match="does not confirm"):
        admit_person(claims(verified=verified), RULES)


def test_a_provider_that_says_nothing_can_be_trusted_but_not_one_that_says_no() -> None:
    trusting = RULES.model_copy(update={"trust_unmarked_emails": True})
    unmarked = claims()
    del unmarked["email_verified"]
    assert admit_person(unmarked, trusting).subject == "1"
    with pytest.raises(SignInError):
        admit_person(unmarked, RULES)
    with pytest.raises(SignInError):
        admit_person(claims(verified=False), trusting)


def test_an_identity_needs_no_address_and_is_of_one_issuer() -> None:
    assert admit_person({"iss": ISSUER, "sub": "kim|7"}, RULES).label == "kim|7"
    with pytest.raises(SignInError, match=r"https://other\.example\|kim\|7"):
        admit_person({"iss": "https://other.example", "sub": "kim|7"}, RULES)


@pytest.mark.parametrize("given", [{}, {"iss": ISSUER}, {"iss": "", "sub": "1"}, {"iss": ISSUER, "sub": 1}])
def test_without_issuer_and_subject_nobody_is_somebody(given: dict[str, Any]) -> None:
    with pytest.raises(SignInError, match="iss and sub"):
        admit_person({**claims(), "iss": None, "sub": None, **given}, RULES)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "no list"),
        ({"allow": []}, "no list"),
        ({"allow": ["bob"]}, "'bob'"),
        ({"allow": ["@"]}, "'@'"),
        ({"allow": ["*"]}, r"'\*'"),
        ({"allow": "ann@example.com"}, "allow"),
        ({"allowed": ["a@b.c"]}, "allowed"),
        ({"allow": ["@com"]}, "'@com'"),
        ("ann@example.com", "can't be used"),
        (None, "can't be used"),
    ],
)
def test_a_list_that_cannot_be_used_lets_nobody_in(section: Any, words: str) -> None:
    with pytest.raises(SignInError, match=words):
        read_admission_rules(section)


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_folders_are_different_for_different_people_and_hold_no_text_of_theirs(a: str, b: str, c: str, d: str) -> None:
    one, other = Person(a, b, "", ""), Person(c, d, "", "")
    assert len(one.folder_name) == 32 and set(one.folder_name) <= set("0123456789abcdef")
    assert (one.folder_name == other.folder_name) == ((a, b) == (c, d))
    assert one.folder_name == Person(a, b, "new@example.com", "A new name").folder_name


def test_a_folder_says_whose_it_is_and_is_private(tmp_path: Path) -> None:
    person = Person(ISSUER, "../../etc", "ann@example.com", "../Ann")
    folder = prepare_person_folder(tmp_path, person)
    assert folder.parent == tmp_path / "users" and folder.stat().st_mode & 0o777 == 0o700
    assert json.loads((folder / "person.json").read_text())["subject"] == "../../etc"
    prepare_person_folder(tmp_path, Person(ISSUER, "../../etc", "ann@example.com", "Ann Married"))
    assert "Married" in (folder / "person.json").read_text()
    assert list_person_folders(tmp_path) == [folder]


def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("a file")
    with pytest.raises(SignInError, match="can't be used"):
        prepare_person_folder(tmp_path, Person(ISSUER, "1", "", ""))


def test_only_the_own_folders_and_names_on_the_hub_are_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other, shared = (tmp_path / name for name in ("own", "other", "shared"))
    for folder in (own, other, shared):
        folder.mkdir()
        (folder / "x.csv").write_text("a\n1\n")
    (own / "link.csv").symlink_to(other / "x.csv")
    (own / "loop").symlink_to(own / "loop")
    monkeypatch.chdir(tmp_path)
    inside = [
        f"{own}/x.csv",
        f"{own}/new/y.csv",
        f"{shared}/x.csv",
        "own/x.csv",
        "owner/model",
        "gpt2",
        "bundled:orders.csv",
        "",
        f"{own}",
        f"{other}/../own/x.csv",
    ]
    outside = [
        f"{other}/x.csv",
        "other/x.csv",
        "other",
        f"{own}/../other/x.csv",
        f"{own}/link.csv",
        f"{own}/loop/x",
        "/etc/passwd",
        "~/x.csv",
        "~nobody-here/x",
        "../x",
        ".",
        "./other/x.csv",
        "/",
        "a/b/c",
        f"{own}x/y",
        "own/../other/x.csv",
    ]
    for text in inside:
        assert not is_path_outside(text, (own, shared)), text
    for text in outside:
        assert is_path_outside(text, (own, shared)), text
