"""What a model is trained on: by default the source of the Python standard library.

Real text on every machine that has CPython, without a network. A document goes to the held-out
split by a hash of its path relative to the library, so the same path stays on the same side
under every Python version and on every machine."""

import hashlib
import importlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from undense.errors import UndenseError

Split = Literal["train", "heldout"]

HELDOUT_PERCENT = 5
BLOCK_CHARACTERS = 8192  # a lone file is cut into documents of about this size, at line ends

# Left out of the default corpus: other people's packages, tests with deliberately broken bytes,
# generated character tables (they read like noise), and files that differ from build to build.
_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
)
_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text and its path, which alone decides its split."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Two disjoint lists of documents, with what is needed to recognise them again."""

    name: str
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    sha256: str
    python_version: str

    def documents(self, split: Split) -> tuple[Document, ...]:
        return self.train if split == "train" else self.heldout


def load_corpus(data: str | Path | None = None) -> Corpus:
    """The default corpus, or the text file or folder of text at `data`.

    Raises `UndenseError` where there is nothing to read, or where it is not UTF-8 text."""
    if data is None:
        return _build("python-stdlib", list(_standard_library()))
    root = Path(data).expanduser()
    if not root.exists():
        raise UndenseError(f"data {root}: no such file or folder; give a text file or a folder")
    if root.is_file():
        documents = _blocks(root.name, _read_text(root))
    else:
        documents = [document for document in _folder(root) if document.text.strip()]
        if len(documents) == 1:
            documents = _blocks(documents[0].path, documents[0].text)
    if not any(document.text.strip() for document in documents):
        raise UndenseError(f"data {root}: empty; a corpus needs text")
    if len(documents) < 2:
        raise UndenseError(
            f"data {root}: too short to hold a part of it out; give more than "
            f"{BLOCK_CHARACTERS} characters, or at least two files"
        )
    return _build(root.name, documents)


def path_rank(path: str) -> float:
    """Where a path falls in [0, 1): the first 8 bytes of its sha256 as a fraction."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _build(name: str, documents: list[Document]) -> Corpus:
    documents = sorted(documents, key=lambda document: document.path)
    # The lowest rank is always held out: a folder of ten files must not end up without a split.
    lowest = min(path_rank(document.path) for document in documents)
    limit = max(lowest, HELDOUT_PERCENT / 100)
    heldout = tuple(document for document in documents if path_rank(document.path) <= limit)
    train = tuple(document for document in documents if path_rank(document.path) > limit)
    if not train:
        raise UndenseError(
            f"data {name}: all {len(documents)} documents fall into the held-out split; "
            "give more files"
        )
    return Corpus(
        name=name,
        train=train,
        heldout=heldout,
        sha256=_digest(documents),
        python_version=platform.python_version(),
    )


def _digest(documents: list[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.path, document.text):
            encoded = part.encode("utf-8", "surrogateescape")
            # The length before each part keeps ("ab", "c") apart from ("a", "bc").
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
    return digest.hexdigest()


def _standard_library() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.as_posix() == "pydoc_data/topics.py" or _is_skipped(relative):
            continue
        try:
            # Source files may declare their encoding; `tokenize.open` honours it.
            with tokenize.open(path) as stream:
                text = stream.read()
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise UndenseError(
                f"the standard library's own source could not be read: {path} ({error}); "
                "pass a text file or folder with --data"
            ) from error
        if text.strip():
            found = True
            yield Document(path=relative.as_posix(), text=text)
    if not found:
        raise UndenseError(
            f"no source of the Python standard library under {root} (a stripped installation?); "
            "pass a text file or folder with --data"
        )
    # The topics are prose kept in one dictionary: as documents of their own they read as prose,
    # not as escaped string literals, and no single one decides the split of all.
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for topic, text in sorted(topics.items()):
        yield Document(path=f"pydoc_data/topics/{topic}", text=text)


def _is_skipped(relative: Path) -> bool:
    return bool(_SKIPPED_FOLDERS.intersection(relative.parts)) or any(
        part.startswith(_SKIPPED_PREFIXES) for part in relative.parts
    )


def _folder(root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield Document(path=relative.as_posix(), text=_read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UndenseError(
            f"data {path}: not UTF-8 text (byte {error.start}); convert it, or leave it out"
        ) from error
    except OSError as error:
        raise UndenseError(f"data {path}: cannot be read ({error.strerror})") from error


def _blocks(name: str, text: str) -> list[Document]:
    """`text` cut at line ends into documents of at least BLOCK_CHARACTERS (the last may be less);
    a longer line is cut where it must."""
    documents: list[Document] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start + BLOCK_CHARACTERS - 1) + 1
        if end == 0 or end - start > 2 * BLOCK_CHARACTERS:
            end = min(start + BLOCK_CHARACTERS, len(text))
        documents.append(Document(path=f"{name}#{len(documents):06d}", text=text[start:end]))
        start = end
    return documents
