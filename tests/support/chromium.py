"""The system's Chromium without a window, for pages that a browser has to judge."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

PROGRAM = shutil.which("chromium")
needed = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")
"""Marks tests that can't do without."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser; each of its contexts has cookies, caches and preferences of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM)
        try:
            yield browser
        finally:
            await browser.close()
