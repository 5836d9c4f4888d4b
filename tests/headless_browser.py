"""A headless Chromium for tests, and what went on in it."""

import json
import shutil

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--window-size=1440,900",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find(names):
    """Path of the first program that is installed, or None."""
    return next(filter(None, map(shutil.which, names)), None)


def open_browser(profile):
    """A driver of headless Chromium; skips the test where there is none.

    Parameters
    ----------
    profile : Path
        An empty folder for the browser's own files.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, driver = find(NAMES), find(("chromedriver",))
    if browser is None or driver is None:
        pytest.skip(
            "no Chromium with its chromedriver: apt-get install chromium "
            "chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(executable_path=driver)
    opened = webdriver.Chrome(options=options, service=service)
    opened.set_page_load_timeout(120)
    return opened


def complaints(driver):
    """Errors and warnings of the console since the last call."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


def requests(driver):
    """Addresses that pages asked for since the last call.

    Without the browser's own (its first tab, the buttons of a player).
    """
    events = [
        json.loads(entry["message"])["message"]
        for entry in driver.get_log("performance")
    ]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith(("chrome:", "data:"))]
