"""`--model` and checkpoints of strangers: from safetensors only, no code, no memory before the shapes are known."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import bert
from datasets_of_rows import write_data_set
from safetensors.torch import save_file

from shards.errors import UserError
from shards.manifest import Manifest
from train.weights import bert_of, make_bert


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    path = tmp_path_factory.mktemp("data")
    return str(path), write_data_set(path)


def make(name: object, data: tuple[str, Manifest]) -> tuple[Any, list[str]]:
    return make_bert(str(name), data[1], data[0], 0.1, 0)


def saved(tmp_path: Path, **config: object) -> Path:
    """A folder as transformers saves one, with fields of its config.json changed."""
    folder = tmp_path / "model"
    bert().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_pickled_weights_are_never_loaded(data: tuple[str, Manifest], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "planted",))

    torch.save({"weights": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \*\.safetensors; load its weights .* save_pretrained"):
        make(folder, data)
    assert not (tmp_path / "planted").exists()
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \*\.safetensors"):
        make(folder, data)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_an_attention_from_the_hub_is_not_asked_for(
    key: str, data: tuple[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the loader of hub kernels made a trap: neither pretrained weights nor a configuration reach it."""

    def trap(*_: object, **__: object) -> None:
        raise AssertionError("a kernel was asked for")

    for name in ("load_and_register_attn_kernel", "lazy_import_flash_attention"):
        monkeypatch.setattr(f"transformers.modeling_utils.{name}", trap, raising=False)
    folder = saved(tmp_path, **{key: "owner/kernel"})
    model, _ = make(folder, data)
    assert model.config._attn_implementation == "sdpa"
    model, _ = make(folder / "config.json", data)
    assert model.config._attn_implementation == "sdpa"
    tensors = dict(model.state_dict())
    assert bert_of((folder / "config.json").read_bytes(), tensors, "url").config._attn_implementation == "sdpa"


@pytest.mark.parametrize("where", ["--model config.json", "tokenizer.json beside the weights"])
def test_deep_nesting_is_one_line(where: str, data: tuple[str, Manifest], tmp_path: Path) -> None:
    deep = "[" * 100_000
    (tmp_path / "config.json").write_text(deep)
    folder = saved(tmp_path)
    (folder / "tokenizer.json").write_text(deep)
    with pytest.raises(UserError) as caught:
        make(tmp_path / "config.json" if where.startswith("--model") else folder, data)
    assert "\n" not in str(caught.value) and ("not JSON" in str(caught.value) or "not a vocabulary" in str(caught.value))


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
        ({"model_type": "gpt2"}, "is not the configuration of a BERT model"),
    ],
)
def test_an_odd_configuration_of_a_checkpoint_is_one_line(changes: dict[str, object], message: str) -> None:
    model = bert()
    config = json.loads(model.config.to_json_string()) | changes
    with pytest.raises(UserError, match=message) as caught:
        bert_of(json.dumps(config).encode(), dict(model.state_dict()), "run/step-1")
    assert "\n" not in str(caught.value) and "run/step-1/config.json" in str(caught.value)


def test_a_checkpoint_gives_its_model_back(tmp_path: Path) -> None:
    model = bert(seed=3)
    again = bert_of(model.config.to_json_string().encode(), dict(model.named_parameters()), "url")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_weights_without_a_layer_are_not_a_bert(data: tuple[str, Manifest], tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state = {name: value.contiguous() for name, value in bert().state_dict().items() if "layer.1" not in name}
    state = {name: value.clone() for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    with pytest.raises(UserError, match="its weights are not those of a BERT: 16 are missing"):
        make(folder, data)
