"""Chromium without a window, driven by Selenium: Debian's packages chromium and chromium-driver."""

import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 20
"""Seconds that a page may take until it shows what a test waits for."""


@functools.cache
def missing() -> str | None:
    """What of browser, driver and Selenium is not installed; None where all are there."""
    for path in (BROWSER, DRIVER):
        if shutil.which(path) is None:
            return f"{path} is not installed (Debian: chromium, chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (the extra dev)"
    return None


def start(profile: Path, width: int = 1400, height: int = 900, *, dark: bool = False) -> Any:
    """Start a browser with a profile of its own and a screen of some size."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(service=Service(executable_path=DRIVER), options=options)
    screen(driver, width, height)
    if dark:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return driver


def screen(driver: Any, width: int, height: int) -> None:
    """Give the page a screen of some size; a narrow one is a phone's."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def until(driver: Any, script: str, *arguments: object) -> Any:
    """What a script returns as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := driver.execute_script(f"return {script}", *arguments)):
        assert time.monotonic() < deadline, f"{script}: never true; {driver.get_log('browser')}"
        time.sleep(0.02)
    return found


def opened(driver: Any, address: str) -> None:
    """Open a page and wait until its first group is shown."""
    driver.get(address)
    until(driver, "document.documentElement.dataset.ready === '1'")


def requested(driver: Any) -> set[str]:
    """Addresses that the browser asked for since it was asked last, other than those with the data in them."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    found = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    return {url for url in found if not url.startswith(("data:", "blob:"))}
