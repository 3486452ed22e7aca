"""Take the screenshots of the README from the finished default study: `make screenshots`.

MLflow's pages and the report are photographed in headless Chromium. The terminal is that of `dvc repro`, begun anew in
a temporary clone inside tmux, read while it works, and drawn by rich. `python -m experiments.screenshots.take runs
report` takes those of these names alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from PIL import Image
from rich.console import Console
from rich.text import Text

from pipeline.addresses import BOUND, FINAL, SEARCH, run_page, runs_page
from pipeline.files import read_json
from pipeline.links import experiment
from pipeline.study import Study
from tests.browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1500, 1000
COLUMNS, ROWS = 118, 26  # of the terminal
WORKING = re.compile(r"stage \d+ of \d+: sweep \w+ +[3-9] of \d+ trials")  # what the terminal shows when it is read
SETTLE = 6.0  # seconds that charts have to be drawn in
VARIANT = "mhvae"
# Before a page is loaded: MLflow's assistant stays closed. After: its notice of a shared view, the sidebar and the
# tools that each chart has while the pointer is on it go.
BEFORE = "for (const [k, v] of [['panelOpen_v1', 'false'], ['fab.autoOpenedOnFirstLoad_v1', 'true']])"
BEFORE += " localStorage.setItem('mlflow.assistant.' + k, v)"
AFTER = """
for (const name of ['mlflow.experiment_page.shared_view.dismiss', 'mlflow_header.toggle_sidebar_button'])
  document.querySelector(`[data-component-id="${name}"]`)?.click();
document.head.insertAdjacentHTML('beforeend', '<style>.modebar {display: none !important}</style>');
"""


@contextmanager
def served(study: Study) -> Iterator[str]:
    """Serve MLflow's UI while the context lasts; yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [sys.executable, "-m", "pipeline", "ui", study.name, "--port", str(port)]
    environment = os.environ | {"BROWSER": "true"}  # no browser of the desktop
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(300):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


async def page(name: str, address: str, texts: list[str], *, height: int = HEIGHT) -> None:
    """Photograph a page once it shows all of these texts."""
    async with Browser(WIDTH, height) as browser:
        if address.startswith("http"):
            await browser.call("Page.addScriptToEvaluateOnNewDocument", source=BEFORE)
        await browser.open(address)
        for text in texts:
            await browser.wait(f"document.body.innerText.includes({text!r})", 120)
        await browser.evaluate(AFTER)
        await asyncio.sleep(SETTLE)
        await browser.photograph(IMAGES / f"{name}.png")
    shrink(IMAGES / f"{name}.png")


def shrink(path: Path) -> None:
    """Store a picture with 256 colours: a third of the size, and no difference to be seen."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size // 1024} kB", flush=True)


async def terminal() -> None:
    """Photograph `dvc repro` as it searches: begun in a clone, and stopped after the photograph."""
    folder, session = Path(tempfile.mkdtemp()), f"screenshot-{os.getpid()}"
    environment = os.environ | {"PYTHONPATH": str(folder / "clone"), "TERM": "xterm-256color"}
    environment = {key: value for key, value in environment.items() if key not in ("CI", "NO_COLOR", "TMUX")}
    tmux = ["tmux", "-L", session]
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        start = [*tmux, "new-session", "-d", *size, "-c", str(folder / "clone"), "env", "PS1=$ ", "bash", "--norc"]
        subprocess.run(start, check=True, env=environment)
        await asyncio.sleep(2)  # until the shell has its prompt
        subprocess.run([*tmux, "send-keys", "dvc repro", "Enter"], check=True)
        text = ""
        for _ in range(1200):
            seen = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout
            if WORKING.search(seen):
                await asyncio.sleep(1)
                again = subprocess.run([*tmux, "capture-pane", "-e", "-p"], capture_output=True, text=True, check=True)
                text = again.stdout
                break
            await asyncio.sleep(0.5)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
        time.sleep(3)
        shutil.rmtree(folder, ignore_errors=True)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.from_ansi(text.rstrip()))
    drawing = IMAGES / "terminal.svg"
    # Without the fonts that the drawing would load from the network.
    plain = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="dvc repro"), flags=re.DOTALL)
    drawing.write_text(plain, encoding="utf-8")
    async with Browser(1400, 1000) as browser:
        await browser.open(drawing.as_uri())
        await asyncio.sleep(1)
        await browser.photograph(IMAGES / "terminal.png")
    drawing.unlink()
    with Image.open(IMAGES / "terminal.png") as image:
        box = Image.eval(image.convert("L"), lambda value: 255 - value).getbbox()
        image.crop(box).save(IMAGES / "terminal.png")
    shrink(IMAGES / "terminal.png")


async def take(names: list[str]) -> None:
    """Take the screenshots of these names, or all."""
    IMAGES.mkdir(parents=True, exist_ok=True)

    def chosen(name: str) -> bool:
        return not names or name in names

    if chosen("terminal"):
        await terminal()
    if names == ["terminal"]:
        return
    study = Study.at(ROOT)
    record = experiment(study)
    if record is None or not (study.report / "report.html").exists():
        sys.exit("the default study has no results yet; first: make repro")
    finals = read_json(study.train(VARIANT) / "seed-0" / "mlflow.json")
    texts = [f"{VARIANT} seed 0", "vae seed 0"]
    if chosen("report"):
        await page("report", (study.report / "report.html").as_uri(), [VARIANT], height=1300)
    if any(map(chosen, ("runs", "charts", "search", "run"))):
        with served(study) as address:
            if chosen("runs"):
                await page("runs", address + runs_page(record.id, FINAL), texts, height=660)
            if chosen("charts"):
                await page("charts", address + runs_page(record.id, BOUND), ["test/nll", "test/gap"], height=1300)
            if chosen("search"):
                await page("search", address + runs_page(record.id, SEARCH), ["A point is a trial"], height=1100)
            if chosen("run"):
                await page("run", address + run_page(record.id, str(finals["run"])), [texts[0]], height=1100)
    print(f"{sum(path.stat().st_size for path in IMAGES.glob('*')) // 1024} kB in docs/images, of 1,500 allowed")


if __name__ == "__main__":
    missing = [name for name in ("tmux",) if shutil.which(name) is None] + (["chromium"] if CHROMIUM is None else [])
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    asyncio.run(take(sys.argv[1:]))
