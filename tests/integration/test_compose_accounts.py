"""The account of the api in the compose file suffices for the api, and for nothing else."""

import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.support.api_fixture import TWO_SCENES, api_fixture
from tests.support.servers import Database

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).parents[2] / "deploy" / "compose" / "postgres-account.sh"


async def test_the_api_works_as_the_account_of_the_compose_file(
    postgres: Database, store_folder: Path
) -> None:
    """It migrates and accepts jobs; it is no superuser and creates no other database."""
    admin_url = await postgres()
    name, password = f"segue_{secrets.token_hex(4)}", secrets.token_hex(8)
    statements = re.findall(r"<<'SQL'\n(.*?)^SQL$", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    sql = re.sub(r"\bsegue\b", name, statements[0]).replace(":'password'", f"'{password}'")
    admin = await asyncpg.connect(admin_url)
    try:
        for statement in filter(str.strip, sql.split(";")):
            await admin.execute(statement)
        parts = urlsplit(admin_url)
        host = parts.netloc.rpartition("@")[2]
        netloc = f"{name}:{password}@{host}"
        url = urlunsplit(parts._replace(netloc=netloc, path=f"/{name}"))
        async with api_fixture(url, store_folder) as api:
            answer = await api.post(job_id="j", scenes=TWO_SCENES)
            [role] = await api.rows(
                "SELECT current_user AS name, rolsuper, rolcreatedb, rolcreaterole "
                "FROM pg_roles WHERE rolname = current_user"
            )
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await api.rows("SELECT pg_read_file('/etc/passwd')")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await api.rows("COPY (SELECT 1) TO PROGRAM 'true'")
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE IF EXISTS {name}")
        await admin.close()

    assert answer.status_code == 202
    assert role == {"name": name, "rolsuper": False, "rolcreatedb": False, "rolcreaterole": False}
