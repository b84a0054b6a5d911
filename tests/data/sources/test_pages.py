"""Pages: extracted text against BeautifulSoup (if it is installed), images, charsets, and Markdown."""

import pytest
from PIL import Image

from zoo.data.readers.html import parts_of_html
from zoo.errors import ConfigError, DataError
from zoo.sources.pages import Pages

PAGE = """<!DOCTYPE html><html><head><title>No</title><style>p {}</style></head><body>
<div class="navheader"><a href="x"><img src="prev.png"></a> Prev</div>
<h1>Head&nbsp;ing</h1><p>One   <b>two</b>
three&hellip;<p>four<br>five<script>no()</script>
<figure><img src="a%20b.png#x" alt="no"><figcaption>Caption</figcaption></figure>
<table><tr><th>k<td>v<tr><td>1</td><td>2</td></tr></table>
<pre>  x = 1
  y = 2</pre><ul><li>a<li>b</ul><nav>no</nav><img src="https://example.org/c.png"><span hidden>tail</span></p></div>
</body></html>"""
TEXTS = ["Head ing\nOne two three\u2026\nfour\nfive", "Caption\nk | v\n1 | 2\n  x = 1\n  y = 2\na\nb", "tail"]


def test_blocks_are_lines_and_menus_scripts_and_titles_are_left_out():
    found = parts_of_html(PAGE, ["navheader"])
    assert [value for kind, value in found if kind == "text"] == TEXTS
    assert [value for kind, value in found if kind == "image"] == ["a%20b.png#x", "https://example.org/c.png"]
    assert [kind for kind, _ in found] == ["text", "image", "text", "image", "text"]


@pytest.mark.parametrize(
    "html", ["", "</p></p>", "<p", "<div><div>", "<img>", "<table><td>", "text & <b>more", "<!-- no -->", "<p>a</div>b"]
)
def test_damaged_html_is_read_as_far_as_it_goes(html):
    assert all(kind in ("text", "image") for kind, _ in parts_of_html(html))


def test_what_is_hidden_ends_with_its_element_though_others_in_it_were_not_closed():
    html = "<div class='menu'><p>no<ul><li>no<p>no</div><p>yes</p><div id='menu'>no</div>after"
    assert parts_of_html(html, ["menu"]) == [("text", "yes\nafter")]


@pytest.fixture
def manual(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "sub" / "a b.png")
    (tmp_path / "sub" / "page.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "note.md").write_text(
        "# Note\n\nSome *words* of it.\n\n![A](sub/a%20b.png)\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", encoding="utf-8"
    )
    latin = '<html><head><meta charset="iso-8859-1"></head><body><p>caf\u00e9 and more words</p></body></html>'
    (tmp_path / "latin.html").write_bytes(latin.encode("latin-1"))
    (tmp_path / "gfdl.html").write_text("<p>licence text of many words", encoding="utf-8")
    (tmp_path / "bad.html").write_bytes(b"<p>\xff\xfe broken words here")
    return tmp_path


def documents(source):
    return {d.id: d for name in source.splits for d in source._documents[name]}


def test_a_folder_of_pages_becomes_documents_with_pictures_as_paths(manual):
    source = Pages(path=manual, min_words=2, exclude_pages=["gfdl*"], split_fractions=[1.0, 0.0, 0.0])
    found = documents(source)
    assert list(found) == ["latin.html", "note.md", "sub/page.html"]
    assert found["latin.html"].text == "caf\u00e9 and more words"
    assert found["note.md"].parts == (
        ("text", "Note\nSome words of it."),
        ("image", manual / "sub/a%20b.png".replace("%20", " ")),
        ("text", "a | b\n1 | 2"),
    )
    assert source.report()["images"] == {"kept": 2, "address": 1}
    assert source.report()["documents"] == {"kept": 3, "unreadable": 1} and source.skipped[0].startswith(
        "bad.html: page bad.html cannot be read"
    )
    conversation = next(source.split("train").sample(i) for i in range(3)).inputs["conversation"]
    assert conversation.messages[0].role == "document" and source.captions()


def test_pages_with_few_words_and_twins_are_dropped(tmp_path):
    for name, text in (("a", "one two three four"), ("b", "one, two three FOUR"), ("c", "one")):
        (tmp_path / f"{name}.html").write_text(f"<p>{text}</p>")
    source = Pages(path=tmp_path, min_words=2, split_fractions=[1.0, 0.0, 0.0])
    assert source.report()["documents"] == {"kept": 1, "duplicate": 1, "too few words": 1}
    assert source.skipped == ["b.html: duplicate (of a.html)", "c.html: too few words (1)"]


def test_splits_are_of_whole_pages(tmp_path):
    for number in range(100):
        (tmp_path / f"{number}.html").write_text(f"<p>page {number}</p>")
    source = Pages(path=tmp_path, min_words=1, split_fractions=[0.6, 0.2, 0.2])
    sizes = [len(source.split(name)) for name in source.splits]
    assert sum(sizes) == 100 and all(size > 8 for size in sizes)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"path": "nowhere"}, DataError, "does not exist"),
        ({"pages": ["*.txt"]}, DataError, "holds 5 pages.*none of them is selected"),
        ({"skip": "toc"}, ConfigError, "skip: 'toc' is one string"),
        ({"min_words": 1000}, DataError, "holds no page to train on.*too few words"),
    ],
)
def test_what_cannot_be_is_refused(manual, keywords, error, words):
    with pytest.raises(error, match=words):
        Pages(**{"path": manual, **keywords})
