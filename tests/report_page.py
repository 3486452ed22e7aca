"""What a reader's browser makes of a report: nothing is missing, empty or cut, on a screen, a telephone and paper."""

from __future__ import annotations

from pathlib import Path

from tests.browser import Browser

__all__ = ["check_report"]

SECTIONS = ("glance", "results", "reading", "bound", "parts", "pictures", "training", "search", "settings", "numbers")
CUT = """[...document.querySelectorAll('figure, svg, img, p, li, pre, h1, h2, h3, summary, figcaption')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
EMPTY = """[...document.querySelectorAll('figure.chart')].filter(f => f.querySelectorAll('svg path').length < 5
  || f.querySelector('svg').getBoundingClientRect().width < 100 || !f.textContent.trim()).map(f => f.id)"""
UNSEEN = "[...document.images].filter(e => !e.naturalWidth || !e.alt).map(e => e.alt)"
WORDLESS = """[...document.querySelectorAll('svg')].filter(e => !/\\d/.test(e.getAttribute('aria-label')))
  .map(e => e.parentElement.id)"""
WIDE = "[...document.querySelectorAll('table')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
FOLDED = """[...document.querySelectorAll('details > *')].filter(e => !e.getBoundingClientRect().height
  || !e.checkVisibility({contentVisibilityAuto: true})).length"""
PAPER = 688  # CSS pixels between the margins of A4


async def check_report(page: Path) -> None:
    """Open a report as a file, and fail on what a reader would miss."""
    async with Browser(1250, 900) as browser:
        await browser.call("Log.enable")

        async def resize(width: int, media: str = "screen", scheme: str = "light") -> None:
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await browser.call("Emulation.setEmulatedMedia", media=media, features=features)
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            await browser.call("Emulation.setDeviceMetricsOverride", **size)

        async def style(selector: str, name: str) -> str:
            return str(await browser.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{name}"))

        await browser.open(page.as_uri())
        await browser.wait("document.readyState === 'complete' && document.querySelector('#files') !== null")
        for name in SECTIONS:
            assert await browser.evaluate(f"document.querySelector('#{name}').innerText.length > 40"), name
        for script in (EMPTY, UNSEEN, WORDLESS, CUT):
            assert await browser.evaluate(script) == [], script
        assert await browser.evaluate("document.querySelectorAll('svg title').length > 30")
        assert await style("body", "backgroundColor") == "rgb(255, 255, 255)"
        await resize(1250, scheme="dark")
        assert await style("body", "backgroundColor") == "rgb(20, 24, 28)"
        assert await style("svg text", "fill") == "rgb(228, 232, 236)"
        await resize(390)
        assert await browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await browser.evaluate(CUT) == []
        assert await browser.evaluate(
            "[...document.querySelectorAll('svg')].every(e => e.scrollWidth <= e.clientWidth)"
        )
        await resize(PAPER, "print", "dark")
        assert await style("body", "backgroundColor") == "rgb(255, 255, 255)"
        assert await browser.evaluate(FOLDED) == 0
        assert await browser.evaluate(WIDE) == 0
        assert await browser.evaluate(CUT) == []
        assert not browser.errors
