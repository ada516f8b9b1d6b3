"""What MkDocs needs to know of this repository: the README is the first page, and sources are named, not linked."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page; where it names a page of `docs/`, link it."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"`docs/(\w+)\.md`", r"[\1](\1.md)", text.replace("](docs/", "]("))
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the names of files outside `docs/` without their links, which only a repository can follow."""
    return re.sub(r"\[([^\]]*)\]\(\.\./(?!\w+/index\.md)[^)]*\)", r"\1", markdown)
