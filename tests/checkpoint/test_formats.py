"""Each format holds every dtype, keeps ties, is found by its content, and is read by the tools it belongs to."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import funcnet as fn
from funcnet.checkpoint import CheckpointError, load, save
from tests.checkpoint.trees import as_comparable, bits_by_name, random_tensor, tensor_bits, tensors_of_all_dtypes
from tests.helpers import assert_identical, parametrize

TARGETS = {
    "safetensors": ("m.safetensors", {}),
    "pt": ("m.pt", {}),
    "bin": ("m.bin", {}),
    "npz": ("m.npz", {}),
    "folder": ("m", {}),
    "shards": ("m", {"shard_size": 60}),
    "bin_shards": ("m", {"shard_size": 60, "format": "pt"}),
    "dcp": ("m", {"format": "dcp"}),
}


@parametrize(target=list(TARGETS))
def test_every_dtype_scalars_and_empty_tensors(target, tmp_path):
    name, options = TARGETS[target]
    flat = tensors_of_all_dtypes()
    save(tmp_path / name, fn.tree.unflatten(flat), **options)
    ckpt = load(tmp_path / name)
    assert bits_by_name(ckpt) == bits_by_name(flat)
    assert list(ckpt) == list(flat)
    assert {name: (spec.shape, spec.dtype) for name, spec in ckpt.specs.items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in flat.items()
    }
    assert ckpt.nbytes == sum(tensor.nbytes for tensor in flat.values())
    assert not list(tmp_path.glob(".*.partial"))


@parametrize(target=list(TARGETS))
def test_ties_have_one_owner_on_disk_and_come_back(target, tmp_path):
    name, options = TARGETS[target]
    wte = random_tensor((5, 2), torch.float32)
    tree = {"wte": {"weight": wte}, "h": {"w": random_tensor((9,), torch.float32, 3)}, "head": {"weight": wte}}
    save(tmp_path / name, tree, aliases={"other": "head.weight"}, **options)
    ckpt = load(tmp_path / name)
    assert ckpt.aliases == {"head.weight": "wte.weight", "other": "wte.weight"}
    assert list(ckpt.entries) == ["wte.weight", "h.w"]
    restored = ckpt.tree()
    assert restored["wte"]["weight"] is restored["head"]["weight"] is restored["other"]
    assert_identical(restored["head"]["weight"], wte)


def test_a_checkpoint_is_saved_as_it_is(tmp_path):
    tree = {"w": random_tensor((5, 2), torch.float32), "epoch": 3}
    save(tmp_path / "a.pt", tree | {"tied": tree["w"]})
    save(tmp_path / "b.npz", load(tmp_path / "a.pt"), aliases={"more": "tied"})
    restored = load(tmp_path / "b.npz")
    assert (restored.aliases, restored.extras) == ({"tied": "w", "more": "w"}, {"epoch": 3})
    assert tensor_bits(restored["more"]) == tensor_bits(tree["w"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_ties_of_a_distributed_checkpoint_are_read_by_torch(tmp_path):
    from torch.distributed import checkpoint as dcp

    wte = random_tensor((500, 20), torch.float32)
    save(tmp_path / "m", {"a": wte, "b": wte, "c": wte.clone()}, format="dcp")
    assert load(tmp_path / "m").aliases == {"b": "a"}
    assert (tmp_path / "m/__0_0.distcp").stat().st_size < 3 * wte.nbytes
    target = {name: torch.zeros_like(wte) for name in "abc"}
    dcp.load(target, checkpoint_id=tmp_path / "m", no_dist=True)
    assert bits_by_name(target) == bits_by_name({"a": wte, "b": wte, "c": wte})


@parametrize(target=list(TARGETS))
def test_what_is_no_tensor_is_kept(target, tmp_path):
    name, options = TARGETS[target]
    extras = {"epoch": 3, "lr": 0.1, "done": False, "note": None, "betas": (0.9, 0.95), "groups": [{"params": [0, 1]}]}
    save(tmp_path / name, {"model": {"w": torch.ones(2)}, **extras}, **options)
    assert load(tmp_path / name).extras == extras


@pytest.mark.parametrize("name", ["c.pt", "c.npz", "c.safetensors"])
def test_what_no_load_would_take_is_not_written(name, tmp_path):
    for tree in (nn.ReLU(), {"w": torch.ones(2), "config": {"act": nn.ReLU()}}):
        with pytest.raises(CheckpointError, match=r"neither tensors nor plain .*\n  (config\.act)?: a ReLU\n"):
            save(tmp_path / name, tree)
    assert list(tmp_path.iterdir()) == []


def test_the_part_of_a_training_checkpoint(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}
    torch.save(state, tmp_path / "last.pt")
    ckpt = load(tmp_path / "last.pt")
    assert ckpt.extras["epoch"] == 4
    assert ckpt.extras["optimizer.param_groups"] == state["optimizer"]["param_groups"]
    assert tensor_bits(ckpt["optimizer.state.1.exp_avg"]) == tensor_bits(state["optimizer"]["state"][1]["exp_avg"])
    part = load(tmp_path / "last.pt", part="model")
    assert bits_by_name(part) == bits_by_name(model.state_dict())
    with pytest.raises(CheckpointError, match=r"has no part 'ema'. There are: 'model', 'optimizer'"):
        load(tmp_path / "last.pt", part="ema")
    save(tmp_path / "last.safetensors", dict(ckpt) | ckpt.extras)
    assert load(tmp_path / "last.safetensors").extras == ckpt.extras


def test_a_part_that_holds_only_the_alias_of_a_tie_owns_it(tmp_path):
    w = torch.ones(2)
    save(tmp_path / "m.safetensors", {"a": {"w": w}, "b": {"x": w, "y": w}})
    part = load(tmp_path / "m.safetensors").part("b")
    assert list(part.entries) == ["x"]
    assert part.aliases == {"y": "x"}


# --- other tools ---


def test_safetensors_files_are_those_of_the_reference(tmp_path):
    flat = {name: tensor for name, tensor in tensors_of_all_dtypes().items() if tensor.dtype is not torch.complex128}
    save(tmp_path / "ours.safetensors", flat)
    assert bits_by_name(safetensors.torch.load_file(tmp_path / "ours.safetensors")) == bits_by_name(flat)
    safetensors.torch.save_file(flat, tmp_path / "theirs.safetensors", metadata={"format": "pt", "note": "x"})
    ckpt = load(tmp_path / "theirs.safetensors")
    assert {name: tensor_bits(ckpt[name]) for name in sorted(ckpt)} == {
        name: tensor_bits(flat[name]) for name in sorted(flat)
    }
    assert ckpt.metadata == {"format": "pt", "note": "x"}


def test_ties_are_written_and_read_as_save_model_does(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embed.weight

    module = Tied()
    safetensors.torch.save_model(module, tmp_path / "theirs.safetensors")
    assert len(load(tmp_path / "theirs.safetensors").aliases) == 1
    assert bits_by_name(load(tmp_path / "theirs.safetensors")) == bits_by_name(module.state_dict())
    save(tmp_path / "ours.safetensors", module.state_dict())
    loaded = Tied()
    assert safetensors.torch.load_model(loaded, tmp_path / "ours.safetensors") == (set(), [])
    assert bits_by_name(loaded.state_dict()) == bits_by_name(module.state_dict())


def test_torch_loads_what_we_save_and_the_other_way_round(tmp_path):
    flat = tensors_of_all_dtypes() | {"big.offset": random_tensor((40,), torch.float32)[7:]}
    flat["tied"] = flat["t.float32"]
    save(tmp_path / "ours.pt", flat)
    for mmap in (False, True):
        theirs = torch.load(tmp_path / "ours.pt", weights_only=True, mmap=mmap)
        assert bits_by_name(theirs) == bits_by_name(flat)
        assert theirs["tied"] is theirs["t.float32"]
        assert all(tensor.data_ptr() % 64 == 0 for tensor in theirs.values() if mmap and tensor.numel())
    base = random_tensor((6, 4), torch.complex64)
    views = {
        "transposed": base.t(),
        "strided": base[1::2, ::3],
        "conjugate": base.conj(),
        "negative": random_tensor((3,), torch.complex128).conj().imag,
        "expanded": torch.ones(3, 1).expand(3, 2),
        "parameter": nn.Parameter(torch.ones(2)),
        "storage_end": base[5:],
    }
    torch.save(flat | views, tmp_path / "theirs.pt")
    ckpt = load(tmp_path / "theirs.pt")
    assert {name: tensor_bits(ckpt[name]) for name in flat | views} == bits_by_name(flat | views)
    assert ckpt.aliases == {"tied": "t.float32"}


def test_files_of_torch_before_1_6(tmp_path):
    flat = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.ones(2, dtype=torch.bool)}
    flat["c"] = flat["a"]
    torch.save({"model": flat, "epoch": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    ckpt = load(tmp_path / "old.pt", part="model")
    assert bits_by_name(ckpt) == bits_by_name(flat)
    assert ckpt.aliases == {"c": "a"}


def test_numpy_reads_what_we_save_and_the_other_way_round(tmp_path):
    np = pytest.importorskip("numpy")
    arrays = {
        "f.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        "big": np.arange(5, dtype=">f8"),
        "big_complex": np.array([1 + 2j], dtype=">c16"),
        "flag": np.array(True),
        "none": np.zeros((0, 3), np.uint16),
    }
    for name, write in (("plain", np.savez), ("packed", np.savez_compressed)):
        write(tmp_path / f"{name}.npz", **arrays)
        ckpt = load(tmp_path / f"{name}.npz")
        assert list(ckpt) == list(arrays)
        for key, array in arrays.items():
            assert_identical(
                ckpt[key],
                torch.from_numpy(
                    np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
                ),
            )
    flat = {"a.b": torch.arange(6.0).view(2, 3), "c": torch.tensor(True), "d": torch.ones(2, dtype=torch.complex128)}
    save(tmp_path / "ours.npz", fn.tree.unflatten(flat))
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as theirs:
        assert {key: theirs[key].tolist() for key in theirs.files} == {key: flat[key].tolist() for key in flat}


def test_other_programs_see_arrays_alone_in_what_we_save(tmp_path):
    np = pytest.importorskip("numpy")
    tree = {"a": {"w": torch.ones(2, dtype=torch.bfloat16)}, "list": [torch.ones(1)], "epoch": 3, "empty": {}}
    save(tmp_path / "a.npz", tree)
    with np.load(tmp_path / "a.npz") as theirs:
        assert theirs.files == ["a.w", "list.0"]
        np.savez(tmp_path / "b.npz", **theirs)
    assert as_comparable(load(tmp_path / "a.npz").tree()) == as_comparable(tree)
    assert load(tmp_path / "b.npz")["a.w"].dtype is torch.bfloat16


def test_bfloat16_as_jax_writes_it(tmp_path):
    np = pytest.importorskip("numpy")
    tensor = random_tensor((4,), torch.bfloat16)
    array = tensor.view(torch.uint16).numpy().view("V2")
    np.savez(tmp_path / "a.npz", w=array)
    assert tensor_bits(load(tmp_path / "a.npz")["w"]) == tensor_bits(tensor)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints_of_torch(tmp_path):
    from torch.distributed import checkpoint as dcp

    flat = {name: tensor for name, tensor in tensors_of_all_dtypes().items() if tensor.numel()}
    dcp.save({"model": dict(flat), "epoch": 3}, checkpoint_id=tmp_path / "theirs", no_dist=True)
    ckpt = load(tmp_path / "theirs")
    assert {name.removeprefix("model."): value for name, value in bits_by_name(ckpt).items()} == bits_by_name(flat)
    assert ckpt.extras == {"epoch": 3}
    save(tmp_path / "ours", flat, format="dcp")
    target = {name: torch.zeros_like(tensor) for name, tensor in flat.items()}
    dcp.load(target, checkpoint_id=tmp_path / "ours", no_dist=True)
    assert bits_by_name(target) == bits_by_name(flat)


def test_indexes_are_those_of_transformers(tmp_path):
    tree = {f"l{i}": torch.full((4,), float(i)) for i in range(5)}
    save(tmp_path / "m", tree, shard_size="32")
    index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 80}
    assert index["weight_map"] == {f"l{i}": f"model-{i // 2 + 1:05}-of-00003.safetensors" for i in range(5)}
    assert bits_by_name(load(tmp_path / "m/model.safetensors.index.json")) == bits_by_name(tree)


# --- detection ---


def test_the_content_says_the_format_and_not_the_name(tmp_path):
    tree = {"w": torch.arange(3.0)}
    for name in ("a.safetensors", "a.pt", "a.npz"):
        save(tmp_path / name, tree)
        for suffix in (".safetensors", ".pt", ".npz", ".bin", ".weights", ""):
            moved = tmp_path / f"moved{suffix}"
            moved.write_bytes((tmp_path / name).read_bytes())
            assert bits_by_name(load(moved)) == bits_by_name(tree)


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "is empty"), (b"PK\x03\x04", "not a whole zip"), (b"hello", "as neither"), (b"\x80\x04N.", "plain pickle")],
)
def test_what_is_no_checkpoint(content, match, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        load(tmp_path / "a")


def test_in_a_folder_of_transformers_the_weights_are_found_beside_other_files(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")
    torch.save({"w": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert load(tmp_path)["w"] == 0
    save(tmp_path / "model.safetensors", {"w": torch.ones(1)})
    assert load(tmp_path)["w"] == 1


def test_folders_that_hold_none_or_several(tmp_path):
    with pytest.raises(CheckpointError, match="without a checkpoint"):
        load(tmp_path)
    save(tmp_path / "a.pt", {"w": torch.ones(1)})
    assert list(load(tmp_path)) == ["w"]
    save(tmp_path / "b.pt", {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"several checkpoints; name the one that is meant:\n  a.pt\n  b.pt"):
        load(tmp_path)


# --- saving ---


def test_trees_that_cannot_be_saved_name_every_path(tmp_path):
    tree = {
        "m": torch.ones(2, device="meta"),
        "s": torch.ones(2, 2).to_sparse(),
        "h": torch.empty(2, dtype=torch.bits8),
    }
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "a.pt", tree, aliases={"m": "s", "x": "nothing"})
    for part in (
        "'m' is in the tree itself",
        "'nothing', which 'x' is tied to",
        "'m': is on the meta",
        "'s': is torch.s",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("a.pt", {"format": "npz"}, "its suffix says pt"),
        ("a.pt", {"shard_size": "1GB"}, "shards need a folder"),
        ("a", {"format": "npz"}, "not written in shards"),
        ("a.h5", {}, "a .h5 file, which funcnet does not write"),
        ("a", {"format": "zarr"}, "There are: dcp"),
        ("a", {"shard_size": "much"}, "is not a size"),
    ],
)
def test_targets_that_do_not_go_together(name, options, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        save(tmp_path / name, {"w": torch.ones(1)}, **options)
    assert list(tmp_path.iterdir()) == []


def test_ckpt_is_a_name_for_a_file_of_torch_and_other_dots_may_be_in_the_name_of_a_folder(tmp_path):
    save(tmp_path / "a.ckpt", {"w": torch.ones(1)})
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["w"], torch.ones(1))
    save(tmp_path / "model-1.5", {"w": torch.ones(1)})
    assert (tmp_path / "model-1.5" / "model.safetensors").is_file()


def test_values_that_text_cannot_hold(tmp_path):
    with pytest.raises(CheckpointError, match="when: a set"):
        save(tmp_path / "a.safetensors", {"w": torch.ones(1), "when": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_two_things_at_one_path(tmp_path):
    torch.save({"a.b": torch.ones(1), "a": {"b": torch.ones(2)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"each stand for two things.*\n  a\.b"):
        load(tmp_path / "a.pt")


def test_params_and_buffers_are_saved_as_a_state_dict_and_come_back(tmp_path):
    net = fn.Sequential(fn.Linear(3, 4), fn.BatchNorm1d(4), fn.Linear(3, 4, bias=False)).tie({"2.weight": "0.weight"})
    trees = net.init(0)
    save(tmp_path / "a.safetensors", trees, aliases=net.aliases)
    module = fn.to_module(net, *trees)
    save(tmp_path / "b.safetensors", module.state_dict())
    ckpt = load(tmp_path / "a.safetensors")
    assert set(ckpt) == set(module.state_dict())
    assert bits_by_name(load(tmp_path / "b.safetensors")) == {
        name: bits_by_name(ckpt)[name] for name in load(tmp_path / "b.safetensors")
    }
    assert_identical(fn.from_state_dict(net, ckpt), trees)
    module.load_state_dict(ckpt)


def test_a_name_too_long_for_an_archive_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="an archive cannot hold these names") as caught:
        save(tmp_path / "a.npz", {"a" * 70_000: torch.ones(2)})
    assert len(str(caught.value)) < 1000
    assert not list(tmp_path.iterdir())


def test_one_list_under_several_names_is_read_under_each(tmp_path):
    betas, tensors = [0.9, 0.95], [torch.ones(2), torch.zeros(3)]
    torch.save({"groups": [{"betas": betas}, {"betas": betas}], "a": tensors, "b": tensors}, tmp_path / "a.pt")
    ckpt = load(tmp_path / "a.pt")
    assert ckpt.extras == {"groups": [{"betas": betas}, {"betas": betas}]}
    assert ckpt.aliases == {"b.0": "a.0", "b.1": "a.1"}


def test_a_tree_that_holds_itself_is_refused(tmp_path):
    tree = {"w": torch.ones(2)}
    tree["self"] = tree
    with pytest.raises(CheckpointError, match="holds itself"):
        save(tmp_path / "a.pt", tree)
