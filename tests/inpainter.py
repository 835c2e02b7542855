"""An inpainter in a browser's tab, as tests use it, and what holds for it on any page without a kernel."""

import io
import re
from contextlib import contextmanager

import matplotlib.pyplot as plt
import pytest
import torch

# Of six samples, the middle of each.
PIECES = """canvas => [0, 1, 2, 3, 4, 5].map(n => { const w = canvas.width / 3, h = canvas.height / 2;
  const from = [(n % 3) * w + 4, Math.floor(n / 3) * h + h / 2];
  return [...canvas.getContext("2d").getImageData(...from, w - 8, h / 2 - 8).data]; })"""
COVER = torch.tensor([0xF0, 0xB6, 0x60])  # --cover in inpaint.css


class Inpainter:
    """A tab with one inpainter, and everything that went wrong in it."""

    def __init__(self, context, url, size):
        self.troubles, self.tab, self.size = [], context.new_page(), size
        self.tab.on("console", lambda m: self.troubles.append(f"console: {m.text}") if m.type == "error" else None)
        self.tab.on("pageerror", lambda e: self.troubles.append(f"error: {e}"))
        self.tab.on("request", lambda r: self._check(r.url))
        self.tab.goto(url)

    def _check(self, url):
        if not re.match(r"http://127\.0\.0\.1[:/]|ws://127\.0\.0\.1[:/]|file:|data:|blob:", url):
            self.troubles.append(f"a request elsewhere: {url}")

    def ready(self):
        self.tab.wait_for_selector(".einet-inpaint[data-answers]", timeout=180_000)
        return self

    @property
    def answers(self):
        return int(self.tab.get_attribute(".einet-inpaint", "data-answers"))

    def after(self, act, *arguments):
        """Do something that asks for an answer, and wait for it: no answer for 0.2 seconds after the last one."""
        before = self.answers
        act(*arguments)
        self.tab.wait_for_function(f"+document.querySelector('.einet-inpaint').dataset.answers > {before}")
        while before != (before := self.answers):
            self.tab.wait_for_timeout(200)

    def press(self, name, asks=True):
        click = self.tab.get_by_role("button", name=name, exact=True).click
        self.after(click) if asks else click()

    def pixels(self, kind="answer"):
        """The canvas as (H, W, 3), one colour a pixel, taken off its centre to the upper left."""
        code = """([kind, size]) => { const canvas = document.querySelector('.einet-inpaint .' + kind);
          const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const at = i => Math.floor((i + 0.3) * canvas.width / size), found = [];
          for (let r = 0; r < size; r++) for (let c = 0; c < size; c++)
            found.push(...data.slice(4 * (at(r) * canvas.width + at(c)), 4 * (at(r) * canvas.width + at(c)) + 3));
          return found; }"""
        return torch.tensor(self.tab.evaluate(code, [kind, self.size])).view(self.size, self.size, 3)

    def hidden(self):
        """(H, W): where the editor shows the cover, an orange that no test image has."""
        return (self.pixels("editor") == COVER).all(-1)

    def assert_visible_stays(self, before):
        """What is visible in the editor is in the answer as it was before."""
        seen = ~self.hidden()
        assert torch.equal(self.pixels()[seen], before[seen])

    def centre(self, row, column):
        self.tab.locator(".einet-inpaint .editor").scroll_into_view_if_needed()
        box = self.tab.locator(".einet-inpaint .editor").bounding_box()
        return box["x"] + (column + 0.5) * box["width"] / self.size, box["y"] + (row + 0.5) * box["height"] / self.size

    def stroke(self, *places, steps=1):
        """The mouse, pressed, from place to place in jumps: what lies between them has to be painted, too."""
        self.tab.mouse.move(*self.centre(*places[0]))
        self.tab.mouse.down()
        for place in places[1:]:
            self.tab.mouse.move(*self.centre(*place), steps=steps)
        self.tab.mouse.up()

    def close(self):
        self.tab.close()
        assert not self.troubles, "\n".join(self.troubles)


class WithoutAKernel:
    """A class of tests brings fixtures: `page`, an `Inpainter` that is ready; `phone`, one on a narrow touch screen.

    Strokes are given in eighths of the image, which are the width of the brush or a little less.
    """

    def test_a_stroke_covers_pixels_and_the_model_fills_them(self, page):
        page.press("clear")
        image, u = page.pixels(), page.size // 8
        assert not page.hidden().any() and torch.equal(image, page.pixels("editor"))
        page.after(page.stroke, (2 * u, u), (2 * u, 6 * u))
        hidden = page.hidden()
        assert hidden[2 * u, u : 6 * u + 1].all() and not hidden[4 * u :].any(), "a jump of the mouse leaves no gap"
        page.assert_visible_stays(image)
        page.press("show pixels again", asks=False)
        page.after(page.stroke, (2 * u, 3 * u), (2 * u, 4 * u))
        again = page.hidden()
        assert not again[2 * u, 3 * u : 4 * u + 1].any() and again[2 * u, u]
        page.press("hide pixels", asks=False)
        page.assert_visible_stays(image)

    def test_what_is_covered_changes(self, page):
        page.press("clear")
        image = page.pixels()
        page.press("lower half")
        hidden = page.hidden()
        assert not torch.equal(page.pixels()[hidden], image[hidden])
        page.assert_visible_stays(image)

    def test_draw_again_draws_another_sample(self, page):
        page.press("clear")
        image = page.pixels()
        page.press("lower half")
        page.after(page.tab.get_by_label("noise of the leaves").check)  # without it two draws may be the same
        drawn = [page.pixels()]
        for _ in range(3):
            page.press("↻ draw again")
            drawn.append(page.pixels())
            page.assert_visible_stays(image)
        page.after(page.tab.get_by_label("noise of the leaves").uncheck)
        assert len({tuple(d.flatten().tolist()) for d in drawn}) == 4

    def test_noise_of_leaves_is_off_at_first(self, page):
        noise = page.tab.get_by_label("noise of the leaves")
        assert not noise.is_checked()
        page.press("lower half")
        page.press("sample")
        assert "without the noise of the leaves" in page.tab.inner_text(".numbers")
        page.after(noise.check)
        assert "drawn from the exact conditional distribution." in page.tab.inner_text(".numbers")
        page.after(noise.uncheck)

    def test_six_draws_at_once(self, page):
        page.press("lower half")
        page.press("six samples")
        page.after(page.tab.get_by_label("noise of the leaves").check)
        assert "six draws from the exact conditional distribution." in page.tab.inner_text(".numbers")
        size = "canvas => [canvas.width, canvas.height]"
        width, height = page.tab.locator(".answer").evaluate(size)
        assert 1.3 < width / height < 1.7, "three in a row"
        cell = page.tab.locator(".answer").evaluate(PIECES)
        assert len({tuple(piece) for piece in cell}) == 6, "no two are the same"
        page.after(page.tab.get_by_label("noise of the leaves").uncheck)
        page.press("sample")
        assert page.tab.locator(".answer").evaluate(size) == page.tab.locator(".editor").evaluate(size)

    def test_the_truth(self, page):
        page.press("clear")
        image = page.pixels()
        assert "Nothing is hidden: this is the image itself." in page.tab.inner_text(".numbers")
        assert page.tab.inner_text(".panels figure:last-child .title") == "the image: nothing is hidden"
        page.press("hide all")
        assert page.hidden().all() and "0 of" in page.tab.inner_text(".numbers")
        assert nats_in(page.tab.inner_text(".numbers")) == 0
        page.press("the truth")
        assert torch.equal(page.pixels(), image) and page.hidden().all()
        page.press("sample")

    def test_undo_and_redo(self, page):
        page.press("clear")
        masks = [page.hidden()]
        page.press("left half")
        masks.append(page.hidden())
        page.press("invert")
        masks.append(page.hidden())
        assert torch.equal(masks[2], ~masks[1]) and masks[1].any()
        u = page.size // 8
        page.after(page.stroke, (2 * u, u), (2 * u, 6 * u), (6 * u, 6 * u))
        masks.append(page.hidden())
        assert masks[3].sum() > masks[2].sum()
        page.after(page.tab.keyboard.press, "Control+z")
        assert torch.equal(page.hidden(), masks[2]), "a stroke is one step"
        page.press("↶ undo")
        page.after(page.tab.keyboard.press, "Control+z")
        assert torch.equal(page.hidden(), masks[0])
        page.after(page.tab.keyboard.press, "Control+Shift+z")
        page.after(page.tab.keyboard.press, "Control+y")
        page.press("↷ redo")
        assert torch.equal(page.hidden(), masks[3])
        redo = page.tab.get_by_role("button", name="↷ redo", exact=True)
        assert redo.get_attribute("aria-disabled") == "true"
        page.press("left half")
        page.press("↶ undo")
        assert redo.get_attribute("aria-disabled") == "false"
        page.press("clear")
        assert redo.get_attribute("aria-disabled") == "true", "a new step forgets what was undone"

    def test_the_brush_shows_its_size(self, page):
        ring, brush = page.tab.locator(".ring"), page.tab.locator(".einet-inpaint input[type=range]")
        page.tab.mouse.move(*page.centre(page.size // 2, page.size // 4))
        assert ring.is_visible()
        box, editor = ring.bounding_box(), page.tab.locator(".editor").bounding_box()
        pixels = int(brush.input_value())
        assert abs(box["width"] - pixels * editor["width"] / page.size) < 1
        assert abs(box["x"] + box["width"] / 2 - page.centre(0, page.size // 4)[0]) < 1
        assert page.tab.inner_text(".einet-inpaint output") == str(pixels)
        page.tab.mouse.move(0, 0)
        assert not ring.is_visible()
        brush.press("ArrowRight")
        assert ring.is_visible() and ring.bounding_box()["width"] > box["width"], "while the slider moves, too"
        brush.press("ArrowLeft")

    def test_a_picture_of_ones_own(self, page, tmp_path):
        """A dark square on white, off the centre: it comes light on dark as the images are, large and centred."""
        picture = torch.full((200, 300, 3), 255, dtype=torch.uint8)
        picture[20:100, 150:230] = 40
        plt.imsave(tmp_path / "own.png", picture.numpy())
        page.press("clear")
        page.after(page.tab.set_input_files, ".einet-inpaint input[type=file]", tmp_path / "own.png")
        shown = page.pixels()[..., 0]
        assert (shown > 140).all() and (shown[1:-1, 1:-1] > 190).all(), "it fills the image, as a negative"
        assert page.tab.get_by_role("button", name="yours", exact=True).get_attribute("aria-pressed") == "true"
        page.press("lower half")
        page.assert_visible_stays(shown[..., None].expand(-1, -1, 3))
        page.press("↶ undo")
        page.press("↶ undo")
        assert not page.tab.get_by_role("button", name="yours", exact=True).is_visible()
        (tmp_path / "none.png").write_text("no picture")
        page.tab.set_input_files(".einet-inpaint input[type=file]", tmp_path / "none.png")
        page.tab.wait_for_function("document.querySelector('.message').textContent.includes('is no picture')")
        page.press("clear")
        assert page.tab.inner_text(".message") == ""

    def test_a_drawing(self, page):
        """It lies where it was drawn, with soft edges; when it is finished, in the middle, and larger."""
        page.press("draw one")
        assert not page.hidden().any() and (page.pixels("editor") < 10).all(), "a blank of the images' ground"
        u = page.size // 8
        page.after(page.stroke, (2 * u, u), (2 * u, 6 * u))
        drawn = page.pixels("editor")[..., 0]
        assert (drawn[2 * u, u : 6 * u + 1] > 240).all() and (drawn[5 * u :] < 10).all()
        page.press("hide pixels")
        moved = page.pixels("editor")[..., 0]
        assert not page.hidden().any() and page.tab.get_by_role("button", name="hide pixels").is_visible()
        rows, columns = ((moved > 128).any(axis).nonzero()[:, 0] for axis in (1, 0))
        for ends in (rows, columns):
            assert abs((ends[0] + ends[-1]).item() - (page.size - 1)) <= 1, "in the middle"
        assert columns[0] <= 1 and columns[-1] >= page.size - 2, "from side to side"
        page.after(page.stroke, (4 * u, u), (4 * u, 6 * u))
        assert page.hidden()[4 * u, u : 6 * u + 1].all()
        page.press("↶ undo")
        assert torch.equal(page.pixels("editor")[..., 0], moved)
        page.press("↶ undo")
        assert torch.equal(page.pixels("editor")[..., 0], drawn), "where it was drawn"
        page.press("↶ undo")
        assert (page.pixels("editor") < 10).all()
        page.press("↶ undo")
        assert not page.tab.get_by_role("button", name="draw on your image", exact=True).is_visible()

    def test_a_drawing_has_soft_edges_and_a_brush_as_wide_as_it_says(self, page):
        page.press("draw one")
        u, brush = page.size // 8, page.tab.locator(".einet-inpaint input[type=range]")
        wide = max(2, 2 * u)
        brush.fill(str(wide))
        page.after(page.stroke, (3 * u, 2 * u), (3 * u, 5 * u))
        column = page.pixels("editor")[:, 3 * u, 0].double() / 255
        assert column.sum().item() == pytest.approx(wide, abs=0.35), "so much ink lies across the stroke"
        page.press("lower half")
        assert page.hidden()[page.size // 2 :].all() and not page.hidden()[: page.size // 2].any()
        box = (page.pixels("editor")[: page.size // 2, :, 0] > 128).nonzero()
        assert len(box), "it was put into the middle before a half was hidden"
        page.press("↶ undo")
        assert torch.equal(page.pixels("editor")[:, 3 * u, 0].double() / 255, column), "one step with the mask"
        page.press("↶ undo")
        page.press("↶ undo")
        brush.fill(str(max(1, round(page.size / 7))))
        page.press("lower half")

    def test_copy_as_png(self, page):
        """Where the clipboard is refused, the picture is a file."""
        page.tab.evaluate("() => { navigator.clipboard && (navigator.clipboard.write = () => Promise.reject()); }")
        page.press("left half")
        with page.tab.expect_download() as download:
            page.press("copy as PNG", asks=False)
        picture = plt.imread(download.value.path())
        assert picture.shape[1] > 2 * picture.shape[0]
        assert page.tab.inner_text(".done") == "saved as inpainting.png"

    def test_the_scale_of_deviations_stays(self, page):
        """What is less sure is lighter, whatever else is shown: half of it uncovered, the rest is as dark or darker."""
        name = page.tab.locator(".thumbnail").first.get_attribute("aria-label")
        page.press(name)
        page.press("standard deviation")
        shown = []
        for mask in ("hide all", "lower half"):
            page.press(mask)
            shown.append((page.pixels(), page.tab.inner_text(".scale")))
        assert shown[0][1] == shown[1][1]
        page.press("clear")
        assert (page.pixels().double().sum(-1) <= 4).all() and page.tab.inner_text(".scale") == shown[0][1]
        page.press("sample")
        assert not page.tab.locator(".scale").is_visible()

    def test_presets(self, page):
        size = page.size
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        halves = {"left half": 2 * columns < size, "right half": 2 * columns >= size}
        halves |= {"upper half": 2 * rows < size, "lower half": 2 * rows >= size}
        halves |= {"every other pixel": (rows + columns) % 2 == 0, "hide all": rows >= 0, "clear": rows < 0}
        for name, wanted in halves.items():
            page.press(name)
            assert torch.equal(page.hidden(), wanted), name

    def test_keyboard(self, page):
        page.press("clear")
        page.tab.focus(".editor")
        page.after(page.tab.keyboard.press, "Space")
        first = page.hidden()
        assert first.any()
        for _ in range(3):
            page.tab.keyboard.press("ArrowUp")
        page.after(page.tab.keyboard.press, "Space")
        assert page.hidden().sum() > first.sum()
        page.after(page.tab.keyboard.press, "Shift+ArrowLeft")
        middle = page.size // 2
        assert f"Row {middle - 2}, column {middle}" in page.tab.inner_text(".spoken")
        page.tab.focus(".einet-inpaint button:text('mean')")
        page.after(page.tab.keyboard.press, "Enter")
        name = page.tab.locator(".thumbnail").first.get_attribute("aria-label")
        assert page.tab.get_attribute(".answer", "aria-label") == f"The answer for {name}: the exact conditional mean"

    def test_everything_has_a_name(self, page):
        """A screen reader finds names on all controls, and the answer in words."""
        unnamed = """[...document.querySelectorAll('.einet-inpaint :is(button, input, canvas[role], [role=group])')]
          .filter(e => !`${e.ariaLabel ?? ''}${e.textContent}${e.closest('label')?.textContent ?? ''}`.trim()).length"""
        assert page.tab.evaluate(unnamed) == 0
        assert page.tab.get_attribute(".spoken", "aria-live") == "polite"
        page.press("left half")
        pixels = page.size**2
        words = f"{pixels // 2} of {pixels} pixels visible"
        page.tab.wait_for_function(f"document.querySelector('.spoken').textContent.includes('{words}')")

    def test_touch(self, phone):
        phone.press("clear")
        editor, answer = (phone.tab.locator(f".{kind}").bounding_box() for kind in ("editor", "answer"))
        assert editor["width"] > 300 and answer["y"] > editor["y"] + editor["height"], "one below the other, and large"
        finger, u = phone.tab.context.new_cdp_session(phone.tab), phone.size // 8
        phone.centre(0, 0)  # scrolls there
        box = phone.tab.locator(".editor").bounding_box()

        def touch(kind, *place):
            points = [dict(zip("xy", phone.centre(*place), strict=True))] if place else []
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        def swipe():
            touch("touchStart", u, u)
            touch("touchMove", u, 6 * u)
            touch("touchMove", 6 * u, 6 * u)
            touch("touchEnd")

        phone.after(swipe)
        hidden = phone.hidden()
        assert hidden[u, u : 6 * u + 1].all() and hidden[u : 6 * u + 1, 6 * u].all()
        assert not hidden[3 * u :, : 4 * u].any()
        assert phone.tab.locator(".editor").bounding_box() == box, "painting does not scroll the page"
        assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 400


def nats_in(text):
    """The log-density that a page tells, which it rounds to a tenth."""
    return float(re.search(r"log-density (-?[\d.]+) nats", text.replace("−", "-"))[1])


# Legibility

CONTRAST = """() => {
  const channels = colour => { const c = document.createElement("canvas").getContext("2d"); c.fillStyle = colour;
    c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const kinds = ":is(.name, button, label, .title, .scale, p:not(.spoken))";
  const texts = [...document.querySelectorAll(`.einet-inpaint ${kinds}`)];
  const seen = e => e.textContent.trim() && e.offsetParent && e.className !== "thumbnail";
  return texts.filter(seen).map(e => [e.textContent,
    channels(getComputedStyle(e).color), channels(getComputedStyle(e).backgroundColor)]); }"""


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (byte / 255 for byte in colour[:3])]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def assert_legible(tab, ground):
    """The contrast of every text with what lies below it is at least 4.5, which WCAG 2 asks for."""
    found = tab.evaluate(CONTRAST)
    assert len(found) > 10
    for text, ink, own in found:
        dark, light = sorted((luminance(ink) + 0.05, luminance(own if own[3] == 255 else ground) + 0.05))
        assert light / dark >= 4.5, (text, ink, own, ground)


def ground_of(tab):
    """The colour of the page just within the first inpainter's frame, as a screenshot has it."""
    box = tab.locator(".einet-inpaint").first.bounding_box()
    corner = tab.screenshot(clip={"x": box["x"] + 6, "y": box["y"] + 6, "width": 1, "height": 1})
    return [round(255 * c) for c in plt.imread(io.BytesIO(corner))[0, 0]]


PHONE = {"viewport": {"width": 400, "height": 800}, "has_touch": True, "is_mobile": True}


@contextmanager
def opened(browser, url, size, **screen):
    """An inpainter that is ready, in a context of its own; what goes wrong while it is open is an error."""
    with browser.new_context(**screen) as context:
        inpainter = Inpainter(context, url, size).ready()
        yield inpainter
        inpainter.close()
