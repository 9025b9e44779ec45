"""The api's interface for operator commands: everything that `ops` may import, except schemas.

`ops` works on the api's tables with the api's own rules and SQL, never with a copy of them. It
imports them from here and the bodies of HTTP requests and responses from
`services.api.http.schemas`; import-linter rejects any other import. A module stands for itself
where its functions are named for what it holds (`audit.begin`, `dead_letters.mark`).
"""

from services.api.background.outbox_relay import Relay
from services.api.database import (
    Connection,
    Database,
    OwnConnection,
    job_list,
    outbox,
    overview,
)
from services.api.database.job_list import LISTED, JobLine
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
from services.api.database.operators.dead_letters import Fate, Fated, LetterPlace, Marked
from services.api.database.operators.run_state import RunStanding
from services.api.database.overview import Bill, Now
from services.api.domain.cost_estimate import check_cap, dollars, estimate_of, is_over_cap
from services.api.domain.redrive import LateStage, RedriveError, Wish, asked_again
from services.api.domain.run_spec import (
    Asked,
    RequestInvalidError,
    ask,
    problems_of,
    spec_of_body,
)
from services.api.domain.run_view import UNFINISHED, RunStatus
from services.api.projection.rebuild import RebuildError, Rebuilding, Rebuilt
from services.api.runs import cancel
from services.api.runs.cancel import Cancelled, planned
from services.api.runs.start import begin_again
from services.api.settings import ApiSettings, DatabaseSettings, DefaultSettings, LimitSettings

__all__ = [
    "LISTED",
    "UNFINISHED",
    "Action",
    "ActionState",
    "ApiSettings",
    "Asked",
    "Bill",
    "Cancelled",
    "Connection",
    "Database",
    "DatabaseSettings",
    "DefaultSettings",
    "Fate",
    "Fated",
    "JobLine",
    "LateStage",
    "LetterPlace",
    "LimitSettings",
    "Marked",
    "Now",
    "OwnConnection",
    "RebuildError",
    "Rebuilding",
    "Rebuilt",
    "RedriveError",
    "Relay",
    "RequestInvalidError",
    "RunStanding",
    "RunStatus",
    "Wish",
    "ask",
    "asked_again",
    "audit",
    "begin_again",
    "cancel",
    "check_cap",
    "dead_letters",
    "dollars",
    "estimate_of",
    "is_over_cap",
    "job_list",
    "migrations",
    "outbox",
    "overview",
    "planned",
    "problems_of",
    "rebuild",
    "redrive",
    "retention",
    "run_state",
    "spec_of_body",
]
