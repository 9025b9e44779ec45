"""Without: what a service is like that lacks one protection. For tests of the tests alone.

Each one is switched off in the process that asks for it (`dying.py --without`), and nowhere else.

I/O: none; it changes the product in this very process.
"""

from collections.abc import Callable, Mapping
from typing import Any

from services.generator.claims import Claims


def _no_claims() -> None:
    """Whoever comes to a scene pays."""

    async def never(_claims: Claims, *_about: Any) -> bool:
        return False

    async def always(_claims: Claims, *_about: Any) -> bool:
        return True

    claims: Any = Claims
    claims.is_claimed = never
    claims._create = always


PROTECTIONS: Mapping[str, Callable[[], None]] = {"claims": _no_claims}
