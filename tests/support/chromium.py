"""The system's Chromium without a window, for tests of pages."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

PROGRAM = shutil.which("chromium")
needed = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")
"""Marks tests that need Chromium."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Yields a browser; each of its contexts has its own cookies, caches and preferences."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM)
        try:
            yield browser
        finally:
            await browser.close()
