"""A pytest plugin for MONAI Label's own endpoint tests: they talk to our running server instead of an app of theirs.

Loaded by `-p upstream_plugin` in a process of its own (see test_upstream_endpoints.py), with the server's address and
folders in the environment. Writes one line for each test: its name, whether it passed, how many requests it made.
"""

import importlib
import json
import os
import sys

import httpx
import pytest

SOURCE, OUTCOMES = os.environ["MONAILABEL_SOURCE"], os.environ["PEER_OUTCOMES"]
CONTEXT = "tests.unit.endpoints.context"
requests = 0


def count(request: httpx.Request) -> None:
    global requests
    requests += 1


def pytest_sessionstart(session):
    sys.path.insert(0, SOURCE)
    context = importlib.import_module(CONTEXT)
    headers = {"Authorization": f"Bearer {os.environ['PERTURBOX_TOKEN']}"}
    client = httpx.Client(
        base_url=os.environ["PEER_SERVER"],
        headers=headers,
        timeout=300,
        trust_env=False,
        event_hooks={"request": [count]},
    )
    context.create_client = lambda *args, **options: client
    context.settings.MONAI_LABEL_SESSION_PATH = os.environ["PEER_SESSIONS"]
    for suite in vars(context).values():
        if isinstance(suite, type) and hasattr(suite, "app_dir"):
            suite.studies = os.environ["PEER_STUDIES"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    global requests
    report = (yield).get_result()
    if report.when == "setup":
        requests = 0
    if report.when == "call" or not report.passed:
        told = {
            "test": item.nodeid.rpartition("/")[2],
            "passed": report.passed,
            "requests": requests,
            "error": "" if report.passed else str(call.excinfo.value)[:300],
        }
        with open(OUTCOMES, "a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")
