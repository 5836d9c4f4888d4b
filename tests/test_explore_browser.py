"""The page of explore in a real browser: click, listen, look, type."""

import numpy as np
import pytest
from headless_browser import complaints, open_browser, requests
from test_explore import NASTY, data_of, unpack, write_track

from muselq_modules.explore import explore
from muselq_modules.explore_page import page, page_data
from muselq_modules.music_map import nearest, unit

N_TRACKS = 12
READY = "return audio.readyState > 0 && !audio.error"


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """One browser for all tests."""
    opened = open_browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page that refers to its audio, and one with previews in it."""
    root = tmp_path_factory.mktemp("explore")
    music = root / 'music "and" <more>'
    names = [f"rock/track {i}.wav" for i in range(6)]
    # One of the names closes the script element that the data stands in.
    names += [*NASTY[1:], f"{NASTY[0]}/script>.wav", "x/</script>.wav"]
    for i, name in enumerate(names):
        level = 0.9 if i < 6 else 0.1
        write_track(music / name, level, 4.0 + (i == 0), seed=i)
    assert len(names) == N_TRACKS
    options = {"cell_s": 0.25, "workers": 1, "cache_folder": root / "cache"}
    return [
        explore(music, "mel", root / "pages" / "plain.html", **options),
        explore(
            music,
            "mel",
            root / "mail.html",
            embed_audio=True,
            preview_s=2.0,
            **options,
        ),
    ]


@pytest.fixture(params=["plain", "mail"])
def opened(request, driver, pages):
    """The page, opened; afterwards it must have been quiet."""
    path = pages[request.param == "mail"]
    requests(driver), complaints(driver)
    driver.get(path.as_uri())
    yield path
    assert complaints(driver) == []
    allowed = path.parents[request.param == "plain"].as_uri()
    assert all(url.startswith(allowed) for url in requests(driver))


def wait(driver, script, *arguments):
    """The value of a script as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 30, 0.05).until(
        lambda d: d.execute_script(script, *arguments), script
    )


def click_point(driver, track):
    """A real click on the point of a track on the map."""
    from selenium.webdriver import ActionChains

    canvas = driver.find_element("id", "map")
    x, y = driver.execute_script("return map.place(arguments[0])", track)
    x -= canvas.size["width"] / 2
    y -= canvas.size["height"] / 2
    actions = ActionChains(driver).move_to_element_with_offset(canvas, x, y)
    actions.click().perform()


def text_of(driver, identifier):
    """What stands in an element."""
    return driver.find_element("id", identifier).text


def test_a_click_shows_neighbours_and_plays(driver, opened):
    data = data_of(opened)
    track = number(data, "rock/track 3.wav")
    click_point(driver, track)
    assert text_of(driver, "name") == "track 3"
    assert "rock/track 3.wav · 0:04" in text_of(driver, "where")
    found = driver.execute_script(
        "return [...document.querySelectorAll('#neighbours li')].map("
        "(item) => [Number(item.dataset.track),"
        " Number(item.querySelector('.value').textContent)])"
    )
    expected = unpack_row(data, track)
    assert [other for other, _ in found] == [other for other, _ in expected]
    for (_, shown), (_, value) in zip(found, expected):
        assert shown == pytest.approx(value, abs=0.011)
    # Louder than half of the others: its own folder comes first.
    assert {data["tracks"][i]["path"][:4] for i, _ in found[:5]} == {"rock"}
    wait(driver, "return audio.currentTime > 0 && !audio.paused")
    driver.find_element("css selector", "#neighbours button").click()
    best = data["tracks"][found[0][0]]["path"]
    assert f"{text_of(driver, 'name')}.wav" == best.partition("/")[2]


def number(data, path):
    """Number of a track."""
    return [track["path"] for track in data["tracks"]].index(path)


def unpack_row(data, track):
    """Neighbours of a track and their similarities, as the page got them."""
    k = data["k"]
    others = unpack(data, "neighbours", "<u4").reshape(-1, k)[track]
    values = unpack(data, "similarities", "i1").reshape(-1, k)[track]
    return list(zip(others.tolist(), (values / 127).tolist()))


def test_the_matrix_is_the_similarity_and_seeks(driver, opened):
    from selenium.webdriver import ActionChains

    data = data_of(opened)
    track = number(data, "rock/track 0.wav")
    click_point(driver, track)
    counts = [one["n"] for one in data["tracks"]]
    n = counts[track]
    assert n == 20  # 5 s in quarters
    vectors = unpack(data, "vectors", "i1").reshape(-1, data["dim"])
    vectors = vectors[sum(counts[:track]) :][:n]
    expected = vectors.astype(float) @ vectors.T / 127**2
    np.fill_diagonal(expected, 1)
    found = driver.execute_script("return Array.from(matrix.values)")
    np.testing.assert_allclose(np.reshape(found, (n, n)), expected, atol=1e-5)
    # A tone, then noise: two bright blocks, and dark ones beside them.
    blocks = np.reshape(found, (2, n // 2, 2, n // 2)).mean((1, 3))
    assert blocks[0, 0] > blocks[0, 1] + 0.3
    # Bright is alike.
    pixels = driver.execute_script(
        "return Array.from(matrix.image.getContext('2d').getImageData("
        "0, 0, matrix.track.n, matrix.track.n).data)"
    )
    bright = np.reshape(pixels, (n, n, 4)).sum(2)
    assert bright[0, 0] > bright.flat[expected.argmin()] + 200
    # The canvas shows the image, and a click on it plays from there.
    canvas = driver.find_element("id", "matrix")
    actions = ActionChains(driver)
    width = canvas.size["width"]
    # Into the middle of column 11 and row 10, from that of the canvas.
    x, y = 0.075 * width, 0.025 * width
    actions.move_to_element_with_offset(canvas, x, y).perform()
    reading = text_of(driver, "reading")
    assert reading == f"0:02 and 0:02: similarity {expected[10, 11]:.2f}"
    driver.execute_script("audio.pause(); audio.currentTime = 0")
    actions.click().perform()
    offset = 0 if opened.stem == "plain" else 1.5
    wait(driver, f"return audio.currentTime + {offset} > 2.7")
    wait(driver, "return matrix.playing > 2.7")
    if opened.stem == "mail":
        actions.move_to_element_with_offset(canvas, -0.48 * width, 0)
        actions.click().perform()
        assert "does not reach 0:00" in text_of(driver, "problem")


def test_every_name_is_shown_as_it_is_and_plays(driver, opened):
    buttons = driver.find_elements("css selector", "#list button")
    assert len(buttons) == N_TRACKS
    paths = {track["path"] for track in data_of(opened)["tracks"]}
    assert "<script>alert(1)</script>.wav" in paths
    for button in buttons:
        button.click()
        wait(driver, READY)
        path = button.get_attribute("title")
        paths.remove(path)
        assert button.text == " ".join(path.split("/")[-1][:-4].split())
        assert text_of(driver, "problem") == ""
    assert not paths
    # Nothing of them became an element.
    counts = driver.execute_script(
        "return ['script', 'img'].map("
        "(tag) => document.getElementsByTagName(tag).length)"
    )
    assert counts == [2, 0]
    assert '"and" <more>' in driver.title


def test_search_and_folders_choose_tracks(driver, opened):
    search = driver.find_element("id", "search")
    search.send_keys("UNICODE #1")
    assert text_of(driver, "found") == f"1 of {N_TRACKS}"
    assert "ünïcode" in text_of(driver, "list")
    search.clear()
    search.send_keys("track")
    assert text_of(driver, "found").startswith("6 of")
    search.send_keys("\b" * 5)
    folders = driver.find_elements("css selector", "#legend button")
    assert folders[0].text == "rock"
    folders[0].click()
    assert folders[0].get_attribute("aria-pressed") == "true"
    assert text_of(driver, "found").startswith("6 of")
    folders[0].click()
    assert text_of(driver, "found").startswith(f"{N_TRACKS} of")


def test_it_works_without_a_mouse(driver, opened):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(driver).send_keys(*keys).perform()

    driver.execute_script("document.getElementById('map').focus()")
    press(Keys.ARROW_RIGHT)
    first = driver.execute_script("return state.selected")
    assert first >= 0
    visited = set()
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_UP) * 3:
        press(key)
        visited.add(driver.execute_script("return state.selected"))
    assert len(visited) > 2
    assert driver.execute_script("return audio.paused")
    press(Keys.ENTER)
    wait(driver, "return !audio.paused && audio.currentTime > 0")
    press(Keys.ENTER)
    wait(driver, "return audio.paused")
    press("+", "+")
    assert driver.execute_script("return map.zoom") == pytest.approx(2.25)
    press("0")
    assert driver.execute_script("return map.zoom") == 1
    driver.execute_script("document.getElementById('matrix').focus()")
    press(Keys.HOME, *[Keys.ARROW_RIGHT] * 9)
    assert text_of(driver, "reading") == "0:02"
    press(Keys.ENTER)
    wait(driver, "return matrix.playing > 2")
    # All else is buttons, a field and a player: Tab reaches them.
    press(Keys.TAB)
    tag = driver.execute_script("return document.activeElement.tagName")
    assert tag == "BUTTON"


def test_light_and_dark_differ(driver, opened):
    grounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [feature]}
        )
        grounds.append(
            driver.execute_script(
                "return getComputedStyle(document.body).backgroundColor"
            )
        )
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


@pytest.mark.parametrize("n", [2, 5000])
def test_two_and_five_thousand_tracks(driver, tmp_path, n):
    rng = np.random.default_rng(0)
    small = rng.integers(-40, 41, (128, 16)).astype(np.int8)
    tracks = [
        {
            "path": f"folder {i % 12}/track {i}.mp3",
            "url": "missing.mp3",
            "group": min(i % 12, 9),
            "duration_s": 200.0,
            "vectors": small,
            "cell_s": 1.6,
        }
        for i in range(n)
    ]
    found = nearest(unit(rng.normal(size=(n, 8))))
    groups = [str(i) for i in range(min(n, 10))]
    data = page_data(tracks, groups, rng.random((n, 2)), *found)
    path = tmp_path / "page.html"
    path.write_text(page("many", "", [], data), "utf-8")
    complaints(driver)
    driver.get(path.as_uri())
    assert complaints(driver) == []
    click_point(driver, n - 1)
    chosen = driver.execute_script("return state.selected")
    assert chosen == n - 1 or n > 2  # one of those that overlap it
    assert text_of(driver, "name") == f"track {chosen}"
    # Its audio is gone: one sentence instead of silence.
    wait(driver, "return byId('problem').textContent.includes('cannot play')")
    listed = driver.find_elements("css selector", "#list button")
    assert len(listed) == min(n, 200)
    seconds = driver.execute_script(
        "const start = performance.now(); for (let i = 0; i < 5; i++)"
        " map.draw(); return (performance.now() - start) / 5e3"
    )
    assert seconds < 2  # .013 when idle; tests also run on busy machines
