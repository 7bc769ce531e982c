"""Who sent a webhook: three schemes of signatures, each over the body as it came.

The packages ``standardwebhooks`` and ``stripe`` check theirs too. They would be two dependencies,
the second of them all of Stripe's API, for what are a few lines of the standard library here, and
neither takes more than one secret. The tests hold ours against what they compute.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Any, Protocol

from celery_fanout.contrib.django.exceptions import InvalidWebhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["GitHub", "StandardWebhooks", "Stripe", "Verifier"]

logger = logging.getLogger(__name__)

#: How old, or how far in the future, a signature's time may be, in seconds.
TOLERANCE = 300.0

#: No time has more digits until the year 33658.
MAX_DIGITS = 12


class Verifier(Protocol):
    """Knows the webhooks of one sender."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """Say whether the sender has sent it.

        Args:
            headers: the request's headers; case does not matter.
            body: the body as it came.
            now: the POSIX time.
        """
        ...

    def describe(
        self, headers: Mapping[str, str], data: Mapping[str, Any]
    ) -> tuple[str | None, Sequence[str]]:
        """Return a delivery's id and its types, the most exact first; called after ``verify``.

        Args:
            headers: the request's headers; case does not matter.
            data: the body.
        """
        ...


class StandardWebhooks:
    """The scheme of standardwebhooks.com, as Svix and many others have it.

    The signature covers the id, the time and the body. The type is the body's ``type``.

    Args:
        secrets: the secret as it was given to you, with or without ``whsec_``; several while it
            is being replaced.
        prefix: what the three headers begin with; ``"svix"`` for senders that use Svix's own.
        tolerance: how far the time in the signature may be from now, in seconds.

    Raises:
        InvalidWebhook: if a secret is missing or cannot be used.
    """

    def __init__(
        self, *secrets: str, prefix: str = "webhook", tolerance: float = TOLERANCE
    ) -> None:
        self._secrets = _secrets_of("StandardWebhooks", secrets, _standard_secret)
        self._prefix = prefix
        self._tolerance = _checked_tolerance("StandardWebhooks", tolerance)

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """Say whether the sender has sent it; see :class:`Verifier`."""
        event_id, sent, signatures = (
            headers.get(f"{self._prefix}-{name}", "") for name in ("id", "timestamp", "signature")
        )
        if not event_id or not _is_recent(sent, now, self._tolerance):
            return False
        signed = f"{event_id}.{sent}.".encode(errors="replace") + body
        expected = [base64.b64encode(_hmac(secret, signed)) for secret in self._secrets]
        versions = (item.partition(",") for item in signatures.split(" "))
        return _is_among([item for version, _, item in versions if version == "v1"], expected)

    def describe(
        self, headers: Mapping[str, str], data: Mapping[str, Any]
    ) -> tuple[str | None, Sequence[str]]:
        """Return the header's id, and the body's type."""
        return headers.get(f"{self._prefix}-id"), _texts(data.get("type"))


class GitHub:
    """Webhooks of GitHub, and of Gitea and Forgejo, which send the same headers.

    Their types are the event with its action, such as ``issues.opened``, and then the event alone,
    such as ``issues``. Choose the content type ``application/json`` in GitHub's settings.

    GitHub signs the body only: no time, and neither the delivery's id nor the event's name.
    Whoever has got hold of a delivery could send it again under another id. So use HTTPS, and
    steps or keys of your own where a second time would do harm.

    Args:
        secrets: the secret; several while it is being replaced.

    Raises:
        InvalidWebhook: if a secret is missing or cannot be used.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = _secrets_of("GitHub", secrets, str.encode)

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """Say whether the sender has sent it; see :class:`Verifier`."""
        del now
        signature = headers.get("X-Hub-Signature-256", "")
        expected = [f"sha256={_hmac(secret, body).hex()}".encode() for secret in self._secrets]
        return _is_among([signature], expected)

    def describe(
        self, headers: Mapping[str, str], data: Mapping[str, Any]
    ) -> tuple[str | None, Sequence[str]]:
        """Return the headers' id and event, and the body's action."""
        event = headers.get("X-GitHub-Event")
        exact = [f"{event}.{action}" for action in _texts(data.get("action"))]
        return headers.get("X-GitHub-Delivery"), [*exact, event] if event else []


class Stripe:
    """Webhooks of Stripe. Id and type are those of the event in the body.

    Args:
        secrets: the endpoint's signing secret, which begins with ``whsec_``; several while it is
            being replaced.
        tolerance: how far the time in the signature may be from now, in seconds.

    Raises:
        InvalidWebhook: if a secret is missing or cannot be used.
    """

    def __init__(self, *secrets: str, tolerance: float = TOLERANCE) -> None:
        self._secrets = _secrets_of("Stripe", secrets, _stripe_secret)
        self._tolerance = _checked_tolerance("Stripe", tolerance)

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """Say whether the sender has sent it; see :class:`Verifier`."""
        items = [
            item.strip().partition("=") for item in headers.get("Stripe-Signature", "").split(",")
        ]
        times = [value for key, _, value in items if key == "t"]
        if len(times) != 1 or not _is_recent(times[0], now, self._tolerance):
            return False
        signed = f"{times[0]}.".encode() + body
        expected = [_hmac(secret, signed).hex().encode() for secret in self._secrets]
        return _is_among([value for key, _, value in items if key == "v1"], expected)

    def describe(
        self, headers: Mapping[str, str], data: Mapping[str, Any]
    ) -> tuple[str | None, Sequence[str]]:
        """Return the event's id and type."""
        del headers
        return next(iter(_texts(data.get("id"))), None), _texts(data.get("type"))


# -- signatures ------------------------------------------------------------------------------------


def _hmac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, hashlib.sha256)


def _is_among(candidates: Iterable[str], expected: Sequence[bytes]) -> bool:
    """Say whether one of the signatures is right, in a time that tells nothing of how wrong."""
    equal = False
    for item in candidates:
        for right in expected:
            equal |= hmac.compare_digest(item.encode(errors="replace"), right)
    return equal


def _is_recent(sent: str, now: float, tolerance: float) -> bool:
    if not (sent.isascii() and sent.isdigit() and len(sent) <= MAX_DIGITS):
        return False
    late = now - int(sent)
    if abs(late) <= tolerance:
        return True
    logger.warning(
        "A webhook was signed %.0f seconds %s", abs(late), "ago" if late > 0 else "ahead"
    )
    return False


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else []


# -- what is refused -------------------------------------------------------------------------------


def _secrets_of(what: str, secrets: Sequence[Any], read: Callable[[str], bytes]) -> list[bytes]:
    if not secrets:
        raise InvalidWebhook(what, "has no secret", "Pass it; without one anybody could send.")
    keys: list[bytes] = []
    for number, secret in enumerate(secrets, start=1):
        if not isinstance(secret, str) or not secret.strip():
            problem = f"has an empty secret (number {number})"
            if secret is not None and not isinstance(secret, str):
                problem = f"has a secret that is no text but a {type(secret).__name__}"
            raise InvalidWebhook(what, problem, "Pass texts; look whether the setting is there.")
        keys.append(read(secret))
    return keys


def _standard_secret(secret: str) -> bytes:
    text = secret.strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise InvalidWebhook(
            "StandardWebhooks",
            "has a secret that is no Base64",
            "Pass it as the sender shows it, such as whsec_ and 32 letters and digits.",
        )
    return key


def _stripe_secret(secret: str) -> bytes:
    if not secret.removeprefix("whsec_") or not secret.startswith("whsec_"):
        raise InvalidWebhook(
            "Stripe",
            "has a secret that does not begin with whsec_",
            "Pass the signing secret of the webhook endpoint, not an API key.",
        )
    return secret.encode()


def _checked_tolerance(what: str, tolerance: Any) -> float:
    is_number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not is_number or not 0 < tolerance <= 24 * 3600:
        raise InvalidWebhook(
            what, f"has the tolerance {tolerance!r}", "Use seconds, greater than 0 and up to a day."
        )
    return float(tolerance)
