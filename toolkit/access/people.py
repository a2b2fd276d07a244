"""Who may use the app after signing in: the list of people, and the person in the claims of an ID token."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from toolkit.errors import SignInError

LIST_EXAMPLE = 'allow = ["ann@example.com", "@example.com"]'
_ADDRESS = re.compile(r"[^@|\s]+@[^@|\s]+")
_DOMAIN = re.compile(r"@[^@|\s]+\.[^@|\s]+")
_IDENTITY = re.compile(r"https?://[^|\s]+\|\S.*")
_MAX_CLAIM = 500


@dataclass(frozen=True)
class Person:
    """Someone who has signed in. issuer, subject: never change. email, name: from the provider, to be shown."""

    issuer: str
    subject: str
    email: str
    name: str

    @property
    def identity(self) -> str:
        """What names the person in the list without an address: "https://issuer|subject"."""
        return f"{self.issuer}|{self.subject}"

    @property
    def label(self) -> str:
        return self.name or self.email or self.subject

    @property
    def folder_name(self) -> str:
        """The name of the person's folder: it follows from issuer and subject alone, and holds no text of theirs."""
        return hashlib.sha256(json.dumps([self.issuer, self.subject]).encode()).hexdigest()[:32]


def _check_entry(entry: str) -> str:
    entry = entry.strip()
    if not any(form.fullmatch(entry) for form in (_ADDRESS, _DOMAIN, _IDENTITY)):
        forms = "an address (ann@example.com), a domain (@example.com) or an identity (issuer|subject)"
        raise ValueError(f"'{entry[:80]}' is not {forms}")
    return entry


class AdmissionRules(BaseModel):
    """The section [people] of the secrets file.

    allow: addresses, domains, and identities. trust_unmarked_emails: count an address about which the provider does not
    say whether it has verified it. shared_folders: folders besides their own from which people may read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Annotated[str, AfterValidator(_check_entry)], ...] = ()
    trust_unmarked_emails: bool = False
    shared_folders: tuple[str, ...] = ()


def read_admission_rules(section: Any) -> AdmissionRules:
    """Return the rules of the section [people] of the secrets file. Raises SignInError if they can't be used."""
    try:
        rules = AdmissionRules.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"The section [people] of the app's secrets file can't be used: {where}: {first['msg']}."
        raise SignInError(message, "The owner of the app has to correct it.") from error
    if not rules.allow:
        raise SignInError(
            "The app has no list of the people who may use it.",
            f"The owner of the app has to add it to the secrets file, as the section [people] with {LIST_EXAMPLE}.",
        )
    return rules


def admit_person(claims: Mapping[str, Any], rules: AdmissionRules) -> Person:
    """Return the person that the claims of a verified ID token name. Raises SignInError if they are not on the list."""
    person = _read_person(claims)
    if person.identity in rules.allow or _is_email_allowed(person.email, claims, rules):
        return person
    who = f"{person.name} ({person.email})" if person.name and person.email else person.label
    message = f"You are signed in as {who}, who is not on the list of people who may use this app."
    if person.email and not _is_email_verified(claims, rules):
        message += " The provider does not confirm this e-mail address, so it does not count."
    hint = f"Ask the owner of the app to add you, or sign out and use another account. Your identity: {person.identity}"
    raise SignInError(message, hint)


def _read_person(claims: Mapping[str, Any]) -> Person:
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not (isinstance(issuer, str) and isinstance(subject, str) and issuer and subject):
        raise SignInError(
            "The provider has not said who you are: its ID token has no iss and sub.",
            "The owner of the app has to choose an OpenID Connect provider, with the scope openid.",
        )
    return Person(issuer, subject, _read_text(claims, "email"), _read_text(claims, "name"))


def _read_text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return " ".join(value.split())[:_MAX_CLAIM] if isinstance(value, str) else ""


def _is_email_allowed(email: str, claims: Mapping[str, Any], rules: AdmissionRules) -> bool:
    # ASCII only: other letters may look the same, or become the same in lower case
    if not email.isascii() or not _ADDRESS.fullmatch(email) or not _is_email_verified(claims, rules):
        return False
    address = email.lower()
    allowed = {entry.lower() for entry in rules.allow if "|" not in entry}
    return address in allowed or "@" + address.rpartition("@")[2] in allowed


def _is_email_verified(claims: Mapping[str, Any], rules: AdmissionRules) -> bool:
    if claims.get("email_verified") is None:
        return rules.trust_unmarked_emails
    return claims["email_verified"] is True
