"""Every link of the documentation that stays within the project leads somewhere."""

from pathlib import Path

import pytest

from tests.support.documents import NOTEBOOKS, ROOT, WITH_LINKS, anchors, links, name_of

each_document = pytest.mark.parametrize("document", WITH_LINKS, ids=name_of)


def inside(document: Path) -> list[str]:
    return [link for link in links(document) if "://" not in link and not link.startswith("mailto:")]


@each_document
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    broken = []
    for link in inside(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        known = anchors(target) if target.suffix == ".md" and target.exists() else set()
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in known):
            broken.append(link)
    assert broken == []


def test_links_are_found_and_headings_named_as_github_does(tmp_path: Path) -> None:
    document = tmp_path / "one.md"
    document.write_text(
        "# `a_b` & c: *d* (e)\n## Twice\n## Twice\n\n[x](y.md#z) ![p](q.png)\n"
        "`[no](code.md)`\n```\n[no](block.md)\n# no\n```\n"
        '[![p](in.png)](out.md) <img src="i.png"> <a id="own"></a>\n'
    )
    assert links(document) == ["y.md#z", "q.png", "out.md", "i.png"]
    assert anchors(document) == {"a_b--c-d-e", "twice", "twice-1", "own"}


def test_links_of_the_readme_are_checked() -> None:
    assert len(inside(ROOT / "README.md")) > 3
    assert NOTEBOOKS.exists()


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
