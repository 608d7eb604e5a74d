"""What must not be learned by heart: personal data and credentials. What is found is named by kind, never copied into the mark.

| kind | found by |
|---|---|
| email | a pattern |
| phone | `phonenumbers` (Google's libphonenumber): possible and valid in its region |
| iban | a pattern and the check digits (`python-stdnum`) |
| card | 13 to 19 digits of a card network's prefix with the Luhn digit (`python-stdnum`) |
| us_ssn | a pattern and the ranges that are given out (`python-stdnum`) |
| ip | a public IPv4 address |
| credentials | the fixed patterns of `detect-secrets` (keys of AWS, GitHub, OpenAI, Slack, Stripe …, private keys, JSON web tokens) |

Nothing is asked of a network. Deliberately not here: names and addresses, which need a model; strings that merely look random, which in
answers about code and mathematics are nearly all false alarms (detect-secrets' entropy plugins fire 33 times in a GSM8K question).
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping

import detect_secrets.plugins
import phonenumbers
import polars as pl
from detect_secrets.plugins.base import RegexBasedDetector
from stdnum import iban, luhn
from stdnum.us import ssn

from curators.errors import ConfigError
from curators.filters.marks import Fault, check_rows, mark, without_text

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b")
_CARD = re.compile(r"(?<![\d.,-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\d.,-]*\d)")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_EXAMPLES = re.compile(r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.(?:com|org|net))?$", re.IGNORECASE)
_PHONE_DIGITS = re.compile(r"\d(?:[\s().\-/]*\d){6}")


def personal_data(
    rows: pl.DataFrame, *, kinds: tuple[str, ...] = ("email", "phone", "iban", "card", "us_ssn", "ip"), region: str = "US"
) -> pl.DataFrame:
    """Marks of texts that hold personal data. `region` (ISO 3166) is where a phone number without a country code belongs.

    Addresses of the reserved domains (`example.com` …, RFC 2606) are nobody's.

    >>> texts = ["Write to jane.roe@company.org", "Write to me@example.com", "Card 4111 1111 1111 1111"]
    >>> personal_data(pl.DataFrame({"row_id": ["a", "b", "c"], "text": texts})).select("reason", "detail").rows()
    [('personal_data', 'email'), (None, None), ('personal_data', 'card')]

    Raises:
        ConfigError: an unknown kind or region.
    """
    if unknown := sorted(set(kinds) - set(_FINDERS)):
        raise ConfigError(f"personal data: kinds {unknown} are not known; there are {sorted(_FINDERS)}")
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigError(f"personal data: region {region!r} is not known; give a code of ISO 3166, as in 'US'")
    faults: dict[str, Fault] = {}
    for row_id, text in check_rows(rows, "text").drop_nulls("text").select("row_id", "text").iter_rows():
        if found := [kind for kind in kinds if _FINDERS[kind](text, region)]:
            faults[row_id] = ("personal_data", ", ".join(found))
    return mark(rows, without_text(rows) | faults)


def credentials(rows: pl.DataFrame) -> pl.DataFrame:
    """Marks of texts that hold a key, a token or a password in an address.

    >>> rows = pl.DataFrame({"row_id": ["a"], "text": ["export KEY=" + "AKIA" + "IOSFODNN7EXAMPLE"]})
    >>> credentials(rows).select("reason", "detail").rows()
    [('credentials', 'AWS Access Key')]
    """
    faults: dict[str, Fault] = {}
    for row_id, text in check_rows(rows, "text").drop_nulls("text").select("row_id", "text").iter_rows():
        if found := [kind for kind, detector in _detectors().items() if any(True for _ in detector.analyze_string(text))]:
            faults[row_id] = ("credentials", ", ".join(found))
    return mark(rows, without_text(rows) | faults)


@functools.cache
def _detectors() -> Mapping[str, RegexBasedDetector]:
    modules = (
        importlib.import_module(f"detect_secrets.plugins.{each.name}") for each in pkgutil.iter_modules(detect_secrets.plugins.__path__)
    )
    classes = {
        value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, RegexBasedDetector)
    }
    found = {str(each.secret_type): each() for each in classes if each is not RegexBasedDetector and each.__name__ != "IPPublicDetector"}
    return dict(sorted(found.items()))


def _emails(text: str, region: str) -> bool:
    return any(not _EXAMPLES.search(match[0]) for match in _EMAIL.finditer(text))


def _phones(text: str, region: str) -> bool:
    return bool(_PHONE_DIGITS.search(text)) and phonenumbers.PhoneNumberMatcher(text, region).has_next()


def _any(pattern: re.Pattern[str], valid: Callable[[str], bool]) -> Callable[[str, str], bool]:
    return lambda text, region: any(valid(match[0]) for match in pattern.finditer(text))


def _beginnings(text: str) -> Iterator[str]:
    """An IBAN may be followed by words in capitals: the whole match, then ever shorter ones."""
    parts = text.split(" ")
    return (" ".join(parts[:n]) for n in range(len(parts), 0, -1))


def _public(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address).is_global
    except ValueError:
        return False


_FINDERS: Mapping[str, Callable[[str, str], bool]] = {
    "email": _emails,
    "phone": _phones,
    "iban": _any(_IBAN, lambda found: any(iban.is_valid(part) for part in _beginnings(found))),
    "card": _any(_CARD, lambda found: luhn.is_valid(re.sub(r"[ -]", "", found))),
    "us_ssn": _any(_SSN, ssn.is_valid),
    "ip": _any(_IP, _public),
}
