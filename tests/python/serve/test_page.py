"""The page at `/`, in a real browser."""

import subprocess

import pytest
from browser import Chromium, Page, find_chromium
from serving import BINARY, running

LAST = "document.querySelector('article:last-child .body').innerText"
IDLE = "document.querySelector('#stop').hidden && document.querySelector('article:last-child footer')"


# The null model ends one answer in a thousand tokens by itself, and tests stop answers when they want.
ENDLESS = """
    const send = window.fetch;
    window.fetch = (url, options) => send(url, options?.body
        ? {...options, body: JSON.stringify({...JSON.parse(options.body), ignore_eos: true})}
        : options);
"""


@pytest.fixture(scope="module")
def chromium():
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium: install Debian's package chromium, or set CHROMIUM")
    browser = Chromium(binary)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def server():
    """5 ms per step: an answer that nobody stops takes 20 s."""
    with running("one=null:5", "two=null:5") as server:
        yield server


@pytest.fixture
def page(chromium, server):
    """The page, ready. Whatever a test did, nothing complained, and nobody else was asked for anything."""
    page = Page(chromium)
    page.before_load(ENDLESS)
    page.open(server.url)
    page.wait("document.querySelector('#state').innerText == 'ready'")
    yield page
    assert page.complaints() == []
    assert {url.split("/")[2] for url in page.requested()} == {f"127.0.0.1:{server.port}"}
    page.close()


def say(page, text="hello"):
    page.js("document.querySelector('#prompt').focus()")
    page.type(text)
    page.press("Enter")


def set_field(page, name, value):
    page.js(f"document.querySelector('#settings').elements.{name}.focus()")
    page.type(str(value))


def whole_answer(page):
    page.wait(IDLE)
    return page.js(LAST)


def figures(page):
    return page.text("article:last-child .figures")


def test_files_are_typed_cached_and_closed_to_foreign_code(null):
    page = null.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name, kind in [("style.css", "text/css"), ("main.js", "text/javascript"), ("icon.svg", "image/svg+xml")]:
        response = null.http.get(f"/page/{name}")
        assert response.headers["content-type"].split(";")[0] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
        again = null.http.get(f"/page/{name}", headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert null.http.get(f"/page/{name}", headers={"if-none-match": '"other"'}).content == response.content
    assert null.http.get("/page/nothing.js").status_code == 404
    assert null.http.head("/").status_code == 200


def test_an_answer_streams_and_stops_and_is_made_again(page, server):
    say(page)
    page.wait(f"{LAST}.length > 20")
    assert page.js("document.querySelector('#messages').ariaBusy") == "true"
    early = page.js(LAST)
    page.wait(f"{LAST}.length > {len(early) + 20}")
    page.press("Escape")
    first = whole_answer(page)
    assert first.startswith(early[:10])
    assert "stopped" in figures(page)
    server.wait_idle("one")
    page.click(".regenerate")
    page.wait(f"!document.querySelector('#stop').hidden && {LAST}.length > 20")
    page.click("#stop")
    assert whole_answer(page)[:20] != first[:20]
    assert page.js("document.querySelectorAll('article').length") == 2
    server.wait_idle("one")


def test_settings_reach_the_model(page):
    page.click("#toggle-settings")
    set_field(page, "max_tokens", 5)
    set_field(page, "seed", 7)
    say(page)
    first = whole_answer(page)
    assert figures(page).startswith("5 tokens")
    page.click(".regenerate")
    page.wait("!document.querySelector('article:last-child footer')")
    assert whole_answer(page) == first
    # They are kept.
    page.reload()
    page.wait("document.querySelector('#settings')?.elements.max_tokens.value == '5'")


def test_another_model_answers(page, server):
    page.click("#toggle-settings")
    set_field(page, "max_tokens", 3)
    page.js("document.querySelector('#model').focus()")
    page.type("two")
    page.js("""(() => { const model = document.querySelector('#model');
        model.value = 'two'; model.dispatchEvent(new Event('change')); })()""")
    before = server.resident("two")["num_generated_tokens"]
    say(page)
    whole_answer(page)
    assert page.text("article:last-child h3") == "two"
    assert server.resident("two")["num_generated_tokens"] == before + 3
    page.wait("document.querySelector('#engine-facts').innerText.startsWith('two ')")


def test_what_cannot_be_answered_is_said(page):
    page.click("#toggle-settings")
    set_field(page, "temperature", -1)
    say(page)
    page.wait(IDLE)
    assert "temperature" in page.text("article:last-child [role=alert]")
    # The browser's own note about the status.
    (note,) = page.complaints()
    assert "400" in note["text"]
    page.events[:] = [event for event in page.events if event["method"] != "Log.entryAdded"]


def test_keys_are_enough(page):
    before = [page.focused()]
    while page.js("document.activeElement.className") != "skip":
        page.press("Tab", shift=True)
        before.insert(0, page.focused())
    assert before[1:4] == ["theme", "model", "new-chat"]
    assert before[4] == "messages"
    assert (len(before), before[-1]) == (9, "prompt")
    page.press("Enter")
    assert page.focused() == "prompt"
    page.press("Tab")
    assert page.focused() == "toggle-settings"
    page.press(" ")
    assert page.js("document.querySelector('#toggle-settings').ariaExpanded") == "true"
    set_field(page, "max_tokens", 4)
    while page.focused() != "prompt":
        page.press("Tab", shift=True)
    page.type("first")
    page.press("Enter", shift=True)
    page.type("second")
    page.press("Enter")
    whole_answer(page)
    assert page.text("article.user .body") == "first\nsecond"
    assert page.focused() == "prompt"
    # From the message box, the answer's buttons come before it.
    while page.focused() != "Regenerate":
        page.press("Tab", shift=True)


def test_everything_that_takes_the_focus_has_a_name(page):
    page.click("#toggle-settings")
    set_field(page, "max_tokens", 4)
    say(page, "```x```")
    whole_answer(page)
    page.wait("document.querySelector('#timeline button')")
    found = page.accessible()
    assert len(found) > 20
    assert [role for role, name in found if not name and role not in ("RootWebArea", "option")] == []


def test_light_dark_and_stillness(page):
    def lightness():
        colour = page.js("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(","))

    page.prefer(prefers_color_scheme="light")
    assert lightness() > 600
    page.prefer(prefers_color_scheme="dark")
    assert lightness() < 120
    page.click("#theme")
    assert page.text("#theme") == "Theme: light"
    assert lightness() > 600
    page.prefer(prefers_reduced_motion="reduce")
    page.click("#theme")
    assert lightness() < 120
    say(page)
    page.wait("document.querySelector('article.assistant')")
    moves = "getComputedStyle(document.querySelector('article:last-child .body'), '::after').animationName"
    assert page.js(moves) == "none"
    page.press("Escape")
    page.wait(IDLE)


def test_the_engine_is_shown_at_work(page, server):
    colours = """(() => {
        const canvas = document.querySelector('#blocks');
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let i = 0; i < data.length; i += 4) found.add(`rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`);
        return [...found];
    })()"""
    used, chosen = (f"getComputedStyle(document.querySelector('i.block-{letter}')).backgroundColor" for letter in "ux")
    used, chosen = page.js(used), page.js(chosen)
    say(page, "long enough for some blocks of sixteen tokens")
    page.wait("document.querySelector('.tiles dd').innerText > '0'")
    page.wait("document.querySelector('#timeline tr rect.decode')")
    page.wait("!document.querySelector('#blocks-facts').innerText.startsWith('0 ')")
    assert page.js("document.querySelector('#throughput path').getAttribute('d').length") > 10
    before = page.js(colours)
    assert used in before
    assert chosen not in before
    page.click("#timeline button")
    page.wait("document.querySelector('#timeline tr.chosen')")
    assert chosen in page.js(colours)
    page.press("Escape")
    page.wait("document.querySelector('#timeline tr svg').ariaLabel.startsWith('left by its caller')")
    server.wait_idle("one")


def test_a_narrow_window_shows_one_part_at_a_time(page):
    shown = "[...document.querySelectorAll('main > section')].filter(s => s.clientWidth).map(s => s.id).join()"
    assert page.js(shown) == "chat,engine"
    page.resize(400, 800)
    assert page.js(shown) == "chat"
    page.click("[data-show=engine]")
    assert page.js(shown) == "engine"
    assert page.js("document.documentElement.scrollWidth") == 400


@pytest.mark.parametrize("width", [1920, 1280, 800, 390])
def test_figures_fit_their_tiles(page, width):
    page.resize(width, 800)
    page.js("document.querySelector('[data-show=engine]').click()")
    cut = """(() => {
        const figures = [...document.querySelectorAll('.tiles dd')];
        for (const dd of figures) dd.textContent = dd.className ? 'p90 1,234 ms' : '1,234 ms';
        return figures.filter(dd => dd.scrollWidth > dd.clientWidth).length;
    })()"""
    assert page.js(cut) == 0


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a <img src=x onerror=alert(1)> & b", "<p>a &lt;img src=x onerror=alert(1)&gt; &amp; b</p>"),
        ("**bold** *and* `**code**`", "<p><strong>bold</strong> <em>and</em> <code>**code**</code></p>"),
        ("2 * 3 * 4, a_b_c", "<p>2 * 3 * 4, a_b_c</p>"),
        ("# Title\ntext", '<p class="heading">Title</p><p>text</p>'),
        (
            "- a\n- **b**\n\n1. c\n2. d",
            '<ul><li>a</li><li><strong>b</strong></li></ul><ol start="1"><li>c</li><li>d</li></ol>',
        ),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
    ],
)
def test_answers_are_text_with_a_little_markdown(page, text, html):
    rendered = page.js(f"""import('/page/markdown.js').then(({{ markdown }}) => {{
        const node = document.createElement('div');
        node.append(markdown({text!r}));
        return node.innerHTML;
    }})""")
    assert rendered == html


def test_code_that_is_still_being_written_is_code(page):
    rendered = page.js("""import('/page/markdown.js').then(({ markdown }) => {
        const blocks = [...markdown('so:\\n```python\\na < b\\n\\n- c').children];
        return blocks.map(node => [node.localName, node.textContent]);
    })""")
    assert rendered == [["p", "so:"], ["pre", "a < b\n\n- c"]]


def test_with_keys_the_page_asks_for_one(chromium, tmp_path):
    keys = tmp_path / "keys.json"
    key = subprocess.run([BINARY, "key", keys, "alice"], capture_output=True, text=True, check=True).stdout.strip()
    with running("null", "--api-key-file", keys) as server:
        page = Page(chromium)
        page.before_load(ENDLESS)
        page.open(server.url)
        page.wait("document.querySelector('#key-dialog').open")
        assert page.focused() == "key"
        page.type("sk-wrong")
        page.press("Enter")
        page.wait("document.querySelector('#key-dialog').open && document.querySelector('#key').value == ''")
        assert "does not know" in page.text("#key-message")
        page.type(key)
        page.press("Enter")
        page.wait("document.querySelector('#state').innerText == 'ready'")
        assert page.js("[document.querySelector('#model').value, localStorage.length]") == ["null", 0]
        assert all(key not in url for url in page.requested())
        say(page)
        page.wait(f"{LAST}.length > 20")
        page.press("Escape")
        page.wait(IDLE)
        page.close()
        server.stop()
        answers = [line for line in server.log() if line["path"] == "/v1/chat/completions"]
        assert [line["key"] for line in answers] == ["alice"]
