"""The api's interface for operator commands: everything that `ops` may import, except schemas.

`ops` works on the api's tables with the api's own rules and SQL, never with a copy of them. It
imports them from here and HTTP response bodies from `services.api.http.schemas`; import-linter
rejects any other import. Query modules are exported whole (`audit.begin`, `dead_letters.claim`).
"""

from services.api.background.outbox_relay import OutboxRelay
from services.api.database import (
    Connection,
    Database,
    OwnConnection,
    job_list,
    outbox,
    overview,
    pricing,
    uploads,
)
from services.api.database.job_list import LISTED, JobSummary
from services.api.database.migrate import migrations
from services.api.database.operators import (
    audit,
    dead_letters,
    rebuild,
    redrive,
    retention,
    run_state,
)
from services.api.database.operators.audit import Action, ActionState
from services.api.database.operators.dead_letters import (
    ClaimedLetter,
    LetterPlace,
    Resolution,
    ResolvedLetter,
)
from services.api.database.operators.run_state import RunState
from services.api.database.overview import CostTotals, CurrentCounts
from services.api.database.scene_delays import pause as provider_pause
from services.api.domain.cost_estimate import (
    RunEstimate,
    check_cap,
    dollars,
    estimate_of,
    is_over_cap,
)
from services.api.domain.redrive import LateStage, RedriveError, RedriveRequest, build_redrive_spec
from services.api.domain.request_fields import job_not_found
from services.api.domain.request_models import (
    MOODS,
    AudioParamsBody,
    GenerateBody,
    SceneBody,
    StyleBody,
    parse_body,
)
from services.api.domain.run_spec import (
    RequestInvalidError,
    RunSpec,
    body_problems,
    build_run_spec,
    spec_of_body,
)
from services.api.domain.run_view import UNFINISHED, RunStatus
from services.api.projection.rebuild import ProjectionRebuild, RebuildError, RebuildReport
from services.api.runs import cancel
from services.api.runs.cancel import CancelOutcome, plan_cancel
from services.api.runs.start import start_redrive
from services.api.settings import ApiSettings, DatabaseSettings, DefaultSettings, LimitSettings

__all__ = [
    "LISTED",
    "MOODS",
    "UNFINISHED",
    "Action",
    "ActionState",
    "ApiSettings",
    "AudioParamsBody",
    "CancelOutcome",
    "ClaimedLetter",
    "Connection",
    "CostTotals",
    "CurrentCounts",
    "Database",
    "DatabaseSettings",
    "DefaultSettings",
    "GenerateBody",
    "JobSummary",
    "LateStage",
    "LetterPlace",
    "LimitSettings",
    "OutboxRelay",
    "OwnConnection",
    "ProjectionRebuild",
    "RebuildError",
    "RebuildReport",
    "RedriveError",
    "RedriveRequest",
    "RequestInvalidError",
    "Resolution",
    "ResolvedLetter",
    "RunEstimate",
    "RunSpec",
    "RunState",
    "RunStatus",
    "SceneBody",
    "StyleBody",
    "audit",
    "body_problems",
    "build_redrive_spec",
    "build_run_spec",
    "cancel",
    "check_cap",
    "dead_letters",
    "dollars",
    "estimate_of",
    "is_over_cap",
    "job_list",
    "job_not_found",
    "migrations",
    "outbox",
    "overview",
    "parse_body",
    "plan_cancel",
    "pricing",
    "provider_pause",
    "rebuild",
    "redrive",
    "retention",
    "run_state",
    "spec_of_body",
    "start_redrive",
    "uploads",
]
