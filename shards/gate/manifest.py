"""The gate of `manifest.json`: every field that a reader uses has its type, its bounds, and agrees with the others."""

from shards.gate.fields import Field
from shards.gate.rows import MAX_SEQ_LEN, MAX_UNUSED_IDS, MAX_VOCAB_SIZE
from shards.schema import token_dtype

PAIRINGS = ("nsp", "paragraph", "sop", "none", "document")
SINGLE_SEGMENT = ("none", "document")  # pairings without a pair task
MASK_UNITS = ("token", "word", "span", "ngram")
SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar.gz"}
TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "word_starts.npy")
SPLITS = ("train", "eval")
_SHA256 = "[0-9a-f]{64}"
MAX_MANIFEST_BYTES = 1 << 30  # and of its index of shards
_MAX_TEMPLATE = 256  # tokens of one side


def check_manifest(manifest: Field) -> tuple[int, int]:
    """Raises ValueError that names the first field which is missing, of another type, or out of bounds.

    The shards have a gate of their own. Returns its bounds: the most tokens of a sequence, and the capacity of a row.
    """
    manifest["recipe_version"].integer(0, 1 << 31)
    max_seq_len, capacity = _check_settings(manifest["settings"])
    _check_tokenizer(manifest["tokenizer"], manifest["settings"]["pairing"].text())
    splits = manifest["splits"]
    splits.require(set(splits.object()) == set(SPLITS), "must have the fields train and eval")
    for _, split in splits.fields():
        split.require(
            "index" not in manifest.object() or "shards" not in split.object(), "must not list shards beside an index"
        )
    if "index" in manifest.object():
        manifest["index"]["bytes"].integer(1, MAX_MANIFEST_BYTES)
        manifest["index"]["sha256"].text(_SHA256)
    _check_ledger(manifest["ledger"])
    _check_inputs(manifest["inputs"])
    for _, version in manifest["made_with"].fields():
        version.text()
    return max_seq_len, capacity


def _check_settings(settings: Field) -> tuple[int, int]:
    """Returns the most tokens of a sequence, and the capacity of a row."""
    settings["format"].one_of(SUFFIXES)
    settings["masking"].one_of(("static", "dynamic"))
    settings["mask_prob"].number(0.0, 1.0)
    settings["mask_unit"].one_of(MASK_UNITS)
    for name in ("mask_replace_prob", "random_replace_prob"):
        settings[name].number(0.0, 1.0)
    settings["pairing"].one_of(PAIRINGS)
    settings["cross_documents"].flag()
    settings["copies"].integer(1, 1_000)
    settings["seed"].integer()
    max_seq_len = settings["max_seq_len"].integer(1, MAX_SEQ_LEN)
    pack_to = settings["pack_to"].integer(0, MAX_SEQ_LEN)
    settings["pack_to"].require(not 0 < pack_to < max_seq_len, f"must be 0 or at least max_seq_len ({max_seq_len})")
    for _, value in settings.fields():
        for scalar in value.items(10_000) if isinstance(value.value, list) else [value]:
            scalar.scalar()
    return max_seq_len, pack_to or max_seq_len


def _check_tokenizer(tokenizer: Field, pairing: str) -> None:
    tokenizer["fingerprint"].text(_SHA256)
    tokenizer["folder"].one_of((TOKENIZER_FOLDER,))
    files = tokenizer["files"]
    for name, digest in files.fields():
        files.require(name in TOKENIZER_FILES, f"must name none but {', '.join(TOKENIZER_FILES)}")
        digest.text(_SHA256)
    for name in TOKENIZER_FILES[:2]:
        files[name].text()
    tokenizer["model"].text("[A-Za-z]{1,40}")
    vocab_size = tokenizer["vocab_size"].integer(1, MAX_VOCAB_SIZE)
    tokenizer["id_type"].one_of((token_dtype(vocab_size).name,))
    for _, number in tokenizer["special_ids"].fields():
        number.integer(0, vocab_size - 1)
    _check_unused_ids(tokenizer["unused_ids"], vocab_size, [number for _, number in tokenizer["special_ids"].fields()])
    for role in ("pad", "mask"):
        tokenizer["special_ids"][role].integer()
    for _, template in tokenizer["templates"].fields():
        for side in ("prefix", "between", "suffix"):
            for number in template[side].items(_MAX_TEMPLATE):
                number.integer(0, vocab_size - 1)
        template["between_a"].integer(0, len(template["between"].items()))
    tokenizer["templates"]["single" if pairing in SINGLE_SEGMENT else "pair"].object()


def _check_unused_ids(runs: Field, vocab_size: int, special_ids: list[Field]) -> None:
    """Runs [first, end) of ids, ascending and apart. Readers expand them, so few bytes must not name many ids."""
    end = num_ids = 0
    for run in runs.items(MAX_UNUSED_IDS):
        edges = [edge.integer(0, vocab_size) for edge in run.items(2)]
        run.require(len(edges) == 2 and end <= edges[0] < edges[1], "must be [first, end), after the run before it")
        end, num_ids = edges[1], num_ids + edges[1] - edges[0]
        run.require(num_ids <= MAX_UNUSED_IDS, f"must not be beyond {MAX_UNUSED_IDS} ids in all runs")
        for number in special_ids:
            number.require(not edges[0] <= number.value < end, f"must not be in the unused ids {edges}")


def _check_ledger(ledger: Field) -> None:
    for unit in ("documents", "bytes"):
        for name in ("in", "used"):
            ledger[unit][name].integer()
        for _, number in ledger[unit]["dropped"].fields():
            number.integer()
    for name in ("sentences", "tokens", "unknown_tokens"):
        ledger[name].integer()
    for name in SPLITS:
        pairs = ledger["pairs"][name]
        for part in (
            "documents",
            "made",
            "placed",
            "truncated",
            "unpaired",
            "negatives",
            "redrawn",
            "dropped",
            "separators",
            "repeated",
        ):
            pairs[part].integer()
    for name in ("document_tokens_histogram", "sentence_tokens_histogram"):
        for count in ledger[name].items(64):
            count.integer()
    for name in ("sampled", "different", "dropped_tokens"):
        ledger["duplicates"][name].integer()
    for corpus in ledger["corpora"].items(10_000):
        for name in ("documents", "copies", "bytes", "tokens"):
            corpus[name].integer()
        for name in ("weight", "share"):
            corpus[name].number(0.0, 1e9)
    for fault in ledger["faults"].items(10_000):
        for _, value in fault.fields():
            value.scalar()


def _check_inputs(inputs: Field) -> None:
    for name in ("files", "bytes"):
        inputs[name].integer()
    inputs["sha256"].text(_SHA256)
    for file in inputs["listed"].items(10_000):
        file["name"].text()
        file["bytes"].integer()
