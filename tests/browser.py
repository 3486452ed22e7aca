"""Headless Chromium by its DevTools protocol: pages are opened, asked, and photographed; errors are collected."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("ResizeObserver loop", "/users/current")  # of MLflow's own pages


class Browser:
    """A browser with one page."""

    def __init__(self, width: int = 1600, height: int = 1400) -> None:
        self.size = (width, height)
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._folder = tempfile.mkdtemp()

    async def __aenter__(self) -> Self:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *words, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        active, deadline = Path(self._folder) / "DevToolsActivePort", time.monotonic() + 60
        while not active.exists() or not active.read_text().strip():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        port = active.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Runtime", "Page", "Network"):
            await self.call(f"{domain}.enable")
        width, height = self.size
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()
        await self._session.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _read(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                answer = self._waiting.pop(content["id"])
                if not answer.done():
                    answer.set_result(content.get("result", {}))
                continue
            params, text = content["params"], ""
            if content["method"] == "Runtime.exceptionThrown":
                text = json.dumps(params["exceptionDetails"])
            elif content["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
                text = json.dumps(params["args"])
            elif content["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":  # after Log.enable
                text = json.dumps(params["entry"])
            elif content["method"] == "Network.responseReceived" and params["response"]["status"] >= 400:
                text = f"HTTP {params['response']['status']}: {params['response']['url']}"
            if text and not any(quiet in text for quiet in QUIET):
                self.errors.append(text[:500])

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(self._waiting[number], 30)

    async def open(self, url: str) -> None:
        """Open an address in a page without history."""
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """Return the value of a script; None while the page is being replaced."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return result.get("result", {}).get("value")

    async def wait(self, script: str, seconds: float = 60.0) -> None:
        """Wait until a script is true; fail with the page's text."""
        deadline = time.monotonic() + seconds
        while not await self.evaluate(script):
            assert time.monotonic() < deadline, (script, await self.evaluate("document.body.innerText"))
            await asyncio.sleep(0.1)

    async def photograph(self, path: Path) -> None:
        """Write what the page shows as PNG."""
        picture = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))
