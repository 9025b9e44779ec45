"""`/` and `/docs` work without another host."""

import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from services.api.http import problems, swagger_ui
from services.api.http.routes import entry_points
from shared.telemetry.log import logger_of

CHECKSUMS = {  # of the files in the npm package swagger-ui-dist 5.35.0
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the routes alone."""
    app = FastAPI(docs_url=None)
    app.include_router(entry_points.router)
    problems.install(app, logger_of("api"))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_the_root_lists_the_entry_points(client: httpx.AsyncClient) -> None:
    """JSON for programs, a page with relative links for browsers."""
    document = (await client.get("/")).json()
    page = await client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})

    assert document["service"] == "segue"
    assert document["entry_points"]["docs"]["path"] == "/docs"
    assert document["entry_points"]["status"]["path"] == "/api/v3/audio/status/{job_id}"
    assert page.headers["content-type"].startswith("text/html")
    assert '<a href="docs">' in page.text
    assert "generate-scenes" in page.text


async def test_the_documentation_loads_only_its_own_files(client: httpx.AsyncClient) -> None:
    """Every file is served; no inline script, no other host, and a policy that forbids both."""
    page = await client.get("/docs")
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    loaded = [await client.get(f"/{name}") for name in names]

    assert {name.split("/")[-1] for name in names} == {
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "start.js",
        "favicon.png",
    }
    assert all(file.status_code == 200 and file.content for file in loaded)
    assert "//" not in "".join(names)
    assert re.findall(r"<script(?![^>]* src=)", page.text) == []
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "connect-src 'self';" in policy
    assert 'url: "openapi.json"' in loaded[-1].text
    assert "validatorUrl: null" in loaded[-1].text


@pytest.mark.parametrize("name", ["index.html", "__init__.py", "README.md", "..%2Fwebhook_keys.py"])
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    """Only the files of the page."""
    answer = await client.get(f"/docs/{name}")

    assert answer.status_code == 404
    assert "path not found" in answer.json()["detail"]


def test_the_files_of_swagger_ui_are_unchanged() -> None:
    """As published; their licence is beside them."""
    folder = files(swagger_ui)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CHECKSUMS}

    assert digests == CHECKSUMS
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert (folder / "NOTICE").read_text().startswith("swagger-ui")
