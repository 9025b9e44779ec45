"""Settings of MusicGen on Replicate: rates and timeouts; key and price are in the account's.

The defaults follow the service's documented limits; one prediction takes ten minutes at most.
"""

from pydantic import Field

from shared.pricing import ReplicateAccount

#: the pinned model: another version may behave differently, and every switch reloads weights
MUSICGEN = "meta/musicgen:671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"


class ReplicateSettings(ReplicateAccount):
    """What the Replicate provider reads from the environment."""

    version: str = Field(
        MUSICGEN,
        validation_alias="SEGUE_MUSICGEN_VERSION",
        pattern=r"^([\w.-]+/[\w.-]+:)?[0-9a-f]{64}$",
    )
    #: predictions started per second, over all lanes of this process
    starts_per_s: float = Field(1.0, gt=0, le=10, validation_alias="SEGUE_REPLICATE_STARTS_PER_S")
    #: predictions in flight at once: four simultaneous starts timed out (E6716)
    in_flight_max: int = Field(4, ge=1, le=500, validation_alias="SEGUE_REPLICATE_IN_FLIGHT_MAX")
    #: first poll of a prediction after so long, then twice as long each time
    poll_first_s: float = Field(1.0, gt=0, validation_alias="SEGUE_REPLICATE_POLL_FIRST_S")
    poll_max_s: float = Field(10.0, gt=0, validation_alias="SEGUE_REPLICATE_POLL_MAX_S")
    polls_max: int = Field(60, ge=1, validation_alias="SEGUE_REPLICATE_POLLS_MAX")
    #: of one prediction, cold start included; then it is cancelled
    deadline_s: float = Field(600.0, ge=5, validation_alias="SEGUE_REPLICATE_DEADLINE_S")
    #: of one request to the API; with SEGUE_CLAIM_LEASE_S well below SEGUE_CLAIM_SETTLE_S
    request_timeout_s: float = Field(
        20.0, gt=0, le=60, validation_alias="SEGUE_REPLICATE_REQUEST_TIMEOUT_S"
    )
    #: of one download of a clip
    download_timeout_s: float = Field(
        60.0, gt=0, validation_alias="SEGUE_REPLICATE_DOWNLOAD_TIMEOUT_S"
    )
    download_bytes_max: int = Field(
        50_000_000, ge=1, validation_alias="SEGUE_REPLICATE_DOWNLOAD_BYTES_MAX"
    )
    #: largest window sent inline, if the provider cannot fetch it from a public address
    data_url_bytes_max: int = Field(
        256_000, ge=1000, le=1_000_000, validation_alias="SEGUE_REPLICATE_DATA_URL_BYTES_MAX"
    )
    #: between two probes whether a refused key, or an empty account, works again
    probe_s: float = Field(30.0, gt=0, validation_alias="SEGUE_REPLICATE_PROBE_S")
