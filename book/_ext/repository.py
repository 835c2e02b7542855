"""Where the book's repository is: the one address `repository.url` of _config.yml, for buttons and a role.

    {repository}`open an issue <issues/new>`

is a link to a page of the repository, or plain words as long as the setting is empty.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.util.docutils import ReferenceRole


def address(config) -> str:
    return config.html_theme_options.get("repository_url", "").rstrip("/")


class Repository(ReferenceRole):
    """A link to a page of the repository."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        url = address(self.config)
        if not url:
            return [nodes.inline("", self.title)], []
        return [nodes.reference("", self.title, refuri=f"{url}/{self.target}".rstrip("/"))], []


def show_buttons(app, config) -> None:
    """The theme's buttons for it, which break where there is none."""
    config.html_theme_options |= dict.fromkeys(("use_repository_button", "use_issues_button"), bool(address(config)))


def setup(app) -> dict:
    app.add_role("repository", Repository())
    app.connect("config-inited", show_buttons)
    return {"parallel_read_safe": True}
