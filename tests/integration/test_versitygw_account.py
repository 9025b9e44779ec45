"""The account that the compose file creates in versitygw suffices, and for its own bucket only."""

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from embedded.servers.object_store import NativeVersitygw
from embedded.servers.process import Server
from ops.cluster.prepare import honours_put_if_absent
from shared.errors import StoreUnavailableError
from shared.http.server import free_ports
from shared.settings import StoreSettings
from shared.storage.s3.store import S3Store
from tests.support.servers import TOOLS, s3_names

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("name", [n for n in s3_names() if n == "versitygw"]),
]
SCRIPT = Path(__file__).parents[2] / "deploy" / "compose" / "versitygw-account.sh"


def script(settings: StoreSettings, root: StoreSettings, binary: Path) -> str:
    """Run the script of the compose file; return what it printed."""
    done = subprocess.run(
        ["sh", SCRIPT],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={
            "PATH": f"{binary.parent}:{os.environ['PATH']}",  # noqa: TID251 - for the script
            "MINIO_ENDPOINT": root.endpoint,
            "MINIO_ROOT_USER": root.access_key.get_secret_value(),
            "MINIO_ROOT_PASSWORD": root.secret_key.get_secret_value(),
            "MINIO_ACCESS_KEY": settings.access_key.get_secret_value(),
            "MINIO_SECRET_KEY": settings.secret_key.get_secret_value(),
        },
    )
    return done.stdout


async def test_the_services_work_as_the_account_of_the_compose_file(
    name: str, tmp_path: Path
) -> None:
    """At the first start and the next, also with a new secret; another's bucket is refused."""
    assert name == "versitygw"
    server = NativeVersitygw(tmp_path, TOOLS)
    binary = server.build(TOOLS)
    root = StoreSettings(
        folder=None,
        endpoint=f"http://127.0.0.1:{free_ports(1)[0]}",
        access_key=SecretStr("root-account"),
        secret_key=SecretStr(secrets.token_hex(12)),
    )
    account = root.model_copy(
        update={"access_key": SecretStr("segue-a"), "secret_key": SecretStr("first")}
    )
    (tmp_path / "iam").mkdir()
    command = [*server.command(binary, root.endpoint.removeprefix("http://"), root.region)]
    command[1:1] = ["--iam-dir", tmp_path / "iam", "--iam-cache-disable"]
    process = Server("versitygw", log=tmp_path / "server.log")
    process.start(
        command,
        answers=lambda: server.is_healthy(root.endpoint),
        ready_s=30,
        environment=server.environment(root),
    )
    others = S3Store(root.model_copy(update={"bucket": "not-theirs"}))
    try:
        await others.prepare()
        script(account, root, binary)
        renewed = account.model_copy(update={"secret_key": SecretStr("second")})
        script(renewed, root, binary)
        store = S3Store(renewed)
        await store.prepare()
        await store.check()
        assert await honours_put_if_absent(store)
        await store.close()
        refused = S3Store(renewed.model_copy(update={"bucket": "not-theirs"}))
        with pytest.raises(StoreUnavailableError, match=r"AccessDenied.*s3:PutObject"):
            await refused.check()
        await refused.close()
    finally:
        await others.close()
        process.stop()
