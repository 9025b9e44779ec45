"""Sets single keys of topic configurations (IncrementalAlterConfigs).

aiokafka 0.14 only has AlterConfigs, which replaces all keys of a topic; confluent-kafka has the
incremental request. Only `segue topics` needs it, so only the `ops` extra installs
confluent-kafka, and it is imported when a change is applied.

I/O: Kafka.
"""

import asyncio
from collections.abc import Mapping

from aiokafka.errors import for_code
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from shared.kafka.client import librdkafka_options, unavailable
from shared.settings import KafkaSettings

REQUEST_TIMEOUT_S = 30.0


async def set_topic_configs(
    settings: KafkaSettings,
    changes: Mapping[str, Mapping[str, str]],
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> None:
    """Set these keys (by full topic name) and leave all other keys as they are.

    Raises:
        KafkaError: the cluster rejected the change, or the account is not authorized.
        RetryableError: no broker is available, or it does not accept this client.
        SettingsError: a certificate file cannot be used.
    """
    if changes:
        await asyncio.to_thread(_alter, settings, changes, timeout_s)


def _alter(
    settings: KafkaSettings, changes: Mapping[str, Mapping[str, str]], timeout_s: float
) -> None:
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in keys.items()
            ],
        )
        for topic, keys in changes.items()
    ]
    # errors are raised; librdkafka would also print them to stderr
    admin = AdminClient({**librdkafka_options(settings), "log_level": 0})
    futures = admin.incremental_alter_configs(resources, request_timeout=timeout_s)
    for resource, future in futures.items():
        try:
            future.result(timeout_s)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() > 0:  # the broker's error code; librdkafka's own are negative
                raise for_code(reason.code())(f"topic {resource.name}: {reason.str()}") from error
            raise unavailable(settings, reason.str()) from error
        except TimeoutError as error:
            raise unavailable(settings, f"no response within {timeout_s:g} s") from error
