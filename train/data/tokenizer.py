"""Is the tokenizer of the data set the model's? Compared by entries, and by what both do with texts.

    the model's tokenizer.json, or its vocab.txt with tokenizer_config.json  -\\
                                                                              > same entries? same ids for every sample?
    the data set's tokenizer.json                                            -/
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from shards import storage
from shards.errors import UserError
from shards.manifest import Manifest
from shards.tokenizer_check import MAX_BYTES, follow_flags, read_definition, vocabulary

# Texts on which tokenizers of the same entries can differ: case, accents (composed and not), ligatures and full-width letters,
# Chinese, Japanese and Korean without spaces, punctuation, control characters and odd spaces, numbers, long words.
SAMPLES = (
    "The Quick BROWN fox, JUMPED over it's dog's tail.",
    "größe Größe GRÖSSE schön über Ångström naïve café cafe\u0301 İstanbul ΣΊΣΥΦΟΣ Ёлка ёлка",
    "ﬁne ｆｕｌｌ ｗｉｄｔｈ ① ½ ™ ²",
    "漢字かな交じり文と中文字符 한국어 문장",
    "a\u00a0b\u3000c\u200bd\te\x00f\ufffdg soft\u00adhyphen",
    "1234567890 3.14 2024-01-01 user@example.com http://a.b/c_d?e=f#g",
    "e" * 90 + " " + "ab" * 55 + " " + "w" * 150 + " " + "x" * 250,
    "हिन्दी ภาษาไทย עברית العَرَبِيَّة Tiếng Việt 😀 👩\u200d💻",
)


def compare_tokenizers(model: str, data_url: str, manifest: Manifest) -> Iterator[str]:
    """Raises UserError when the model's tokenizer is not the data set's. Yields a message when it has none to compare.

    `model`: a folder or a hub name.
    """
    file = _tokenizer_file(model)
    if file is None:
        yield f"{model}: has no tokenizer of its own; only the number of ids could be compared with the data set's"
        return
    url = storage.join(data_url, manifest.tokenizer["folder"], "tokenizer.json")
    data = storage.read_small(url, MAX_BYTES)
    _compare_entries(model, _vocabulary(storage.read_small(str(file), MAX_BYTES), str(file)), _vocabulary(data, url))
    data_tokenizer = _load_definition(read_definition(data, url), url)
    if file.suffix == ".json":
        definition = read_definition(storage.read_small(str(file), MAX_BYTES), str(file))
        model_tokenizer = _load_definition(follow_flags(definition, _config(model), "tokenizer_config.json"), str(file))
    else:
        _config(model)  # fetches it, so that it lies beside the vocabulary
        with _one_line(str(file)):
            model_tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False)
    for sample in SAMPLES:
        for text in (*sample.split(" "), sample):  # words first: the example is then short
            ids, own_ids = _encode(data_tokenizer, text, url), _encode(model_tokenizer, text, str(file))
            if ids != own_ids:
                raise UserError(
                    f"--model {model}: its tokenizer has the data set's entries, but makes {own_ids[:8]} of {text[:40]!r} "
                    f"where the data set has {ids[:8]}; build the data set with --tokenizer {model}"
                )


def check_vocabulary(data_url: str, manifest: Manifest) -> None:
    """Raises UserError unless the ids of the data set's tokenizer end where its manifest says: models are made of that size."""
    url = storage.join(data_url, manifest.tokenizer["folder"], "tokenizer.json")
    definition = read_definition(storage.read_small(url, MAX_BYTES), url)
    size, vocab_size = 1 + max(vocabulary(definition).values(), default=-1), manifest.tokenizer["vocab_size"]
    if size != vocab_size:
        raise UserError(f"{url}: has ids up to {size - 1}, the manifest says {vocab_size}; run `prep verify {data_url}`")


def _encode(tokenizer: Any, text: str, place: str) -> list[int]:
    with _one_line(place):
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _tokenizer_file(model: str) -> Path | None:
    """The model's tokenizer.json or, where it has none, its vocab.txt. `prep build --tokenizer` takes them in this order."""
    return model_file(model, "tokenizer.json") or model_file(model, "vocab.txt")


def model_file(model: str, name: str) -> Path | None:
    """The path of one file of a folder or of a model on the hub; None if there is none."""
    try:
        path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
    except OSError:  # the hub answered a moment ago, for the configuration
        path = None
    return Path(path) if path else None


def _config(model: str) -> dict[str, Any]:
    """The content of the model's tokenizer_config.json; empty if there is none."""
    file = model_file(model, "tokenizer_config.json")
    with _one_line(str(file)):
        return dict(json.loads(storage.read_small(str(file)))) if file else {}


def _load_definition(definition: dict[str, Any], place: str) -> Any:
    """The tokenizer of a tokenizer.json as transformers runs it, without what a build switches off."""
    model = {name: value for name, value in definition["model"].items() if name != "dropout"}
    definition = definition | {"truncation": None, "padding": None, "model": model}
    with _one_line(place), tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tokenizer.json"
        copy.write_text(json.dumps(definition), encoding="utf8")
        return PreTrainedTokenizerFast(tokenizer_file=str(copy))  # type: ignore[no-untyped-call]


@contextmanager
def _one_line(place: str) -> Iterator[None]:
    """The errors of the library, which are of many kinds, as a UserError. A panic of it is not even an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: transformers cannot use this tokenizer ({reason}); check the file") from error


def _compare_entries(model: str, own: dict[str, int], of_data: dict[str, int]) -> None:
    if own == of_data:
        return
    different = sorted(token for token in {*of_data, *own} if of_data.get(token) != own.get(token))
    first = different[0]
    raise UserError(
        f"--model {model}: its tokenizer is not the data set's: {len(different)} entries differ, for example {first!r} is "
        f"{own.get(first, 'none')} in it and {of_data.get(first, 'none')} in the data set; "
        f"build the data set with --tokenizer {model}"
    )


def _vocabulary(data: bytes, place: str) -> dict[str, int]:
    """token -> id, of a tokenizer.json or a vocab.txt."""
    try:
        if not place.endswith(".json"):
            return {token.rstrip("\r"): number for number, token in enumerate(data.decode().rstrip("\n").split("\n"))}
        return vocabulary(read_definition(data, place))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{place}: not a vocabulary that can be compared ({error!r})") from error
