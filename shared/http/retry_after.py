"""Parses `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3).

Units: seconds. Pure.
"""

import math
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

SECONDS_MAX = 3600.0  #: a longer wait is cut to this


def parse_retry_after(value: Any, *, now: datetime | None) -> float | None:
    """Return the seconds to wait, 0 to 3600; None if `value` is missing or invalid.

    A date counts from `now` (timezone-aware); with None, only seconds are accepted.
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    except (TypeError, ValueError):
        if now is None:
            return None
        try:
            seconds = (parsedate_to_datetime(str(value)) - now).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), SECONDS_MAX) if math.isfinite(seconds) else None
