"""Altering: the request that sets single keys of a topic's configuration.

aiokafka knows only the older one, which replaces all of them. This is Kafka's
IncrementalAlterConfigs, version 0, in aiokafka's own words for requests.

Pure: it is sent elsewhere.
"""

from collections.abc import Mapping
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String
from typing_extensions import override

_API_KEY = 44
_TOPIC = 2  # kind of resource
_SET = 0  # kind of change
_TEXT = String("utf-8")


class SetConfigsResponseV0(Response):  # type: ignore[misc]  # aiokafka is untyped
    """What came of it, by topic."""

    API_KEY = _API_KEY
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "responses",
            Array(
                ("error_code", Int16),
                ("error_message", _TEXT),
                ("resource_type", Int8),
                ("resource_name", _TEXT),
            ),
        ),
    )


class SetConfigsRequestV0(RequestStruct):  # type: ignore[misc]  # aiokafka is untyped
    """The request as it is sent."""

    API_KEY = _API_KEY
    API_VERSION = 0
    RESPONSE_TYPE = SetConfigsResponseV0
    SCHEMA = Schema(
        (
            "resources",
            Array(
                ("resource_type", Int8),
                ("resource_name", _TEXT),
                (
                    "configs",
                    Array(("name", _TEXT), ("config_operation", Int8), ("value", _TEXT)),
                ),
            ),
        ),
        ("validate_only", Boolean),
    )


class SetConfigs(Request[SetConfigsRequestV0]):  # type: ignore[misc]  # aiokafka is untyped
    """Set these keys of these topics."""

    API_KEY = _API_KEY

    def __init__(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """`changes`: keys and values by topic."""
        self._resources = [
            (_TOPIC, topic, [(key, _SET, value) for key, value in keys.items()])
            for topic, keys in changes.items()
        ]

    @override
    def build(self, request_struct_class: type[SetConfigsRequestV0]) -> Any:
        """The request for the version that was agreed on."""
        return request_struct_class(self._resources, False)
