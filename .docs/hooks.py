"""Docstrings write inner products as <a, b>: Markdown must not take them for HTML."""

from markdown.extensions import Extension


class NoRawHTML(Extension):
    """Leaves anything in angle brackets as it is written."""

    def extendMarkdown(self, md):  # noqa: D102, N802
        md.preprocessors.deregister("html_block")
        md.inlinePatterns.deregister("html")


def on_config(config):  # noqa: D103
    config.markdown_extensions.append(NoRawHTML())
    return config
