"""An inpainter in a browser's tab, as tests use it: on a page of their own, in JupyterLab, in the built book."""

import re

import torch


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

    def press(self, name):
        self.after(self.tab.get_by_role("button", name=name, exact=True).click)

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
        """(H, W): where the editor shows the cover, which is orange, and no grey of an image is."""
        pixels = self.pixels("editor")
        return pixels[..., 0] != pixels[..., 2]

    def assert_visible_stays(self, before):
        """What is visible in the editor is in the answer as it was before."""
        seen = ~self.hidden()
        assert torch.equal(self.pixels()[seen], before[seen])

    def centre(self, row, column):
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
