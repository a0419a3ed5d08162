"""Rules proposed from names, shapes and order: what is certain, what is a guess, and that no guess is applied."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn
from funcnet.checkpoint import (
    Fuse,
    Prefix,
    Rename,
    RuleError,
    Split,
    Stack,
    Tie,
    Transpose,
    Unstack,
    convert,
    from_toml,
    load,
    match,
    plan,
    save,
)
from funcnet.checkpoint._matching._families import group_families
from tests.models.published import FORMS, PUBLISHED


def reviewed(result):
    """The rules, after a person has agreed to every guess."""
    return from_toml(result.to_toml().replace("guess = true\n", ""))


def shapes_after(before, rules):
    specs = {name: fn.checkpoint.Spec(shape, torch.float32) for name, shape in before.items()}
    return {name: spec.shape for name, spec in plan(specs, rules).specs.items()}


def test_equal_layouts_need_no_rules():
    result = match({"a": (2,), "b.c": ()}, {"b.c": (), "a": (2,)})
    assert (result.proposals, result.same, result.certain, result.rules) == ((), 2, True, ())
    assert result.to_toml() == ""


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ({"module.a": (2,), "module.b": (2,)}, {"a": (2,), "b": (2,)}, Prefix(remove="module.")),
        ({"a": (2,), "b": (2,)}, {"m.net.a": (2,), "m.net.b": (2,)}, Prefix(add="m.net.")),
        ({"a": (2, 3), "b": (2,)}, {"c": (2, 3), "b": (2,)}, Rename("a", "c")),
        ({"a": (3, 2), "b": (2,)}, {"a": (2, 3), "b": (2,)}, Transpose("a")),
        ({"h.0.a": (2,), "h.1.a": (2,)}, {"b.0.c": (2,), "b.1.c": (2,)}, Rename("h.{i}.a", "b.{i}.c")),
    ],
)
def test_what_leaves_no_choice_is_certain(before, after, rule):
    result = match(before, after)
    assert result.certain
    assert result.rules == (rule,)
    assert shapes_after(before, result.rules) == after


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        (
            {f"h.{i}.{name}": (size, 4) for i in range(2) for name, size in {"q": 4, "k": 2, "v": 2}.items()},
            {f"h.{i}.qkv": (8, 4) for i in range(2)},
            [Fuse(["h.{i}.q", "h.{i}.k", "h.{i}.v"], "h.{i}.qkv", (4, 2, 2))],
        ),
        (
            {"attn.c_attn.weight": (4, 12)},
            {f"attn.{name}_proj.weight": (4, 4) for name in "qkv"},
            [
                Transpose("attn.c_attn.weight"),
                Split("attn.c_attn.weight", [f"attn.{name}_proj.weight" for name in "qkv"], (4, 4, 4)),
            ],
        ),
        (
            {"h.0.w": (2, 3), "h.1.w": (2, 3), "h.0.b": (2,), "h.1.b": (2,)},
            {"layers.w": (2, 2, 3), "layers.b": (2, 2)},
            [
                *(Rename("h.{i}.w", "layers.{i}.w"), Stack("layers.{i}.w", "layers.w")),
                *(Rename("h.{i}.b", "layers.{i}.b"), Stack("layers.{i}.b", "layers.b")),
            ],
        ),
        (
            {"layers.w": (2, 3, 5)},
            {"h.0.w": (5, 3), "h.1.w": (5, 3)},
            [
                Unstack("layers.w", "layers.{i}.w"),
                Transpose("layers.{i}.w"),
                Rename("layers.{i}.w", "h.{i}.w"),
            ],
        ),
        ({"a": (2,), "b": (2,)}, {"b": (2,), "c": (2,)}, [Rename("a", "c")]),
    ],
)
def test_fused_split_stacked_unstacked_and_turned(before, after, rules):
    result = match(before, after)
    assert list(reviewed(result)) == rules
    assert shapes_after(before, rules) == after


def test_names_that_change_places_do_not_meet():
    before, after = {"a": (2, 3), "b": (3, 5)}, {"a": (3, 5), "b": (2, 3)}
    assert shapes_after(before, reviewed(match(before, after))) == after


def test_patterns_mean_no_tensor_that_has_its_name_already():
    before = {**{f"h.{i}.w": (2, 3) for i in range(2)}, "h.last.w": (5,), "x.0.w": (7,), "x.1.w": (7,)}
    after = {**{f"g.{i}.w": (2, 3) for i in range(2)}, "h.last.w": (5,), "h.0.w": (7,), "h.1.w": (7,)}
    assert shapes_after(before, reviewed(match(before, after))) == after


def test_a_square_matrix_is_turned_as_the_others_are():
    before = {"a.kernel": (2, 3), "b.kernel": (4, 4), "c.kernel": (5, 5)}
    result = match(before, {"a.weight": (3, 2), "b.weight": (4, 4), "c.weight": (5, 5)})
    assert [proposal.certain for proposal in result.proposals] == [True, False, False]
    assert sum(isinstance(rule, Transpose) for rule in reviewed(result)) == 3


def test_what_is_left_and_what_is_missing_is_said():
    result = match({"a": (2,), "old.mask": (7, 7)}, {"a": (2,), "bn.num_batches_tracked": (), "new": (9,)})
    assert result.left == ("old.mask",)
    assert result.missing == ("new",)
    assert "# left over, with no place in the target: old.mask\n" in result.to_toml()
    assert "# missing, with nothing in the source that fits: new\n" in result.to_toml()
    assert "LEFT" in str(result)
    assert "MISSING" in str(result)
    assert reviewed(result)[0].value == 0  # what other frameworks do not count


def test_no_guess_is_applied_until_a_person_has_looked(tmp_path):
    save(tmp_path / "a.npz", {"one": torch.ones(2), "two": torch.zeros(2)})
    result = match(tmp_path / "a.npz", {"eins": (2,), "zwei": (2,)})
    assert not result.certain
    with pytest.raises(RuleError, match=r"guesses.*\n.*one -> eins"):
        result.rules  # noqa: B018
    path = tmp_path / "rules.toml"
    path.write_text(result.to_toml())
    for call in (lambda: from_toml(path.read_text()), lambda: convert(tmp_path / "a.npz", tmp_path / "b.npz", path)):
        with pytest.raises(RuleError, match=r"(?s)nobody has looked.*rule 1.*rule 2.*take its line guess = true out"):
            call()
    assert not (tmp_path / "b.npz").exists()
    path.write_text(path.read_text().replace("guess = true", "guess = false"))
    convert(tmp_path / "a.npz", tmp_path / "b.npz", path)
    assert list(load(tmp_path / "b.npz")) == ["eins", "zwei"]


def test_guess_is_a_mark_and_nothing_else():
    with pytest.raises(RuleError, match="has no guess"):
        from_toml('[[rule]]\nop = "rename"\nsource = "a"\ntarget = "b"\nguess = "yes"\n')


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in PUBLISHED])
def test_well_known_models_are_matched_as_their_ready_rules_do(case, tmp_path):
    pytest.importorskip("transformers")
    case.module().save_pretrained(tmp_path)
    source = load(tmp_path)
    for fused_qkv, stacked in FORMS:
        form = {"fused_qkv": fused_qkv, "stacked": stacked}
        result = match(source, fn.models.from_config(tmp_path, **form))
        assert not result.missing
        proved = plan(source.specs, reviewed(result), source.aliases)
        ready = plan(source.specs, fn.models.rules(tmp_path, **form, source=source), source.aliases)
        steps = {step.target: step for step in proved.steps()}
        assert {step.target: step for step in ready.steps()}.items() <= steps.items()
        assert proved.aliases == ready.aliases
        certain = [proposal for proposal in result.proposals if proposal.certain]
        assert len(certain) < len(result.proposals)


def test_a_net_a_module_and_a_checkpoint_are_layouts(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(3, 2, bias=False))
    module[2].weight = module[0].weight
    net, params, buffers = fn.from_module(module)
    state = {name: tensor for name, tensor in module.state_dict().items() if name != "2.weight"}
    save(tmp_path / "a.safetensors", {f"wrapped.{name}": tensor for name, tensor in state.items()})
    save(tmp_path / "b.safetensors", fn.to_state_dict(net, params, buffers))
    results = [match(tmp_path / "a.safetensors", target) for target in (net, module, tmp_path / "b.safetensors")]
    for result in results:
        assert result.rules == (Prefix(remove="wrapped."), Tie("2.weight", "0.weight", stored=False))
    convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", results[0].rules)
    restored_params, _ = fn.from_state_dict(net, load(tmp_path / "c.safetensors"))
    assert torch.equal(restored_params["0"]["weight"], params["0"]["weight"])
    with pytest.raises(TypeError, match="not int"):
        match(tmp_path / "a.safetensors", 3)


def test_a_tied_tensor_that_the_source_stores_twice_is_checked(tmp_path):
    net = fn.Sequential(fn.Linear(3, 2, bias=False), fn.Linear(3, 2, bias=False)).tie({"1.weight": "0.weight"})
    weight = torch.ones(2, 3)
    for second_weight, fits in ((weight.clone(), True), (weight + 1, False)):
        save(tmp_path / "a.npz", {"0.weight": weight, "1.weight": second_weight})
        rules = match(tmp_path / "a.npz", net).rules
        assert rules == (Tie("1.weight", "0.weight"),)
        if fits:
            convert(tmp_path / "a.npz", tmp_path / "b.npz", rules)
            assert load(tmp_path / "b.npz").aliases == net.aliases
        else:
            with pytest.raises(fn.checkpoint.CheckpointError, match="equal"):
                convert(tmp_path / "a.npz", tmp_path / "b.npz", rules)


def test_ties_that_the_target_does_not_have_are_forgotten(tmp_path):
    weight = torch.ones(2, 3)
    save(tmp_path / "a.safetensors", {"a": weight, "b": weight})
    rules = match(tmp_path / "a.safetensors", {"a": (2, 3)}).rules
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", rules)
    assert list(load(tmp_path / "b.safetensors")) == ["a"]


def test_families_are_what_one_pattern_means_and_no_more():
    def patterns(*names, shape=(2,)):
        return [family.pattern for family in group_families(dict.fromkeys(names, shape))]

    assert patterns("h.0.w", "h.1.w", "x") == ["h.{i}.w", "x"]
    assert patterns("h.0.w", "h.2.w") == ["h.0.w", "h.2.w"]
    assert patterns("h.0.w", "h.1.w", "h.a.w") == ["h.0.w", "h.1.w", "h.a.w"]
    assert patterns("Dense_0/w", "Dense_1/w") == ["Dense_{i}/w"]
    assert patterns("ln_1.w", "ln_2.w") == ["ln_1.w", "ln_2.w"]
    assert patterns(*(f"a.{i}.b.{j}.w" for i in range(2) for j in range(3))) == ["a.{i}.b.{j}.w"]
    assert patterns(*(f"h.{i}.ln_{j}.w" for i in range(2) for j in (1, 2))) == ["h.{i}.ln_1.w", "h.{i}.ln_2.w"]
    mixed = group_families({"h.0.w": (2,), "h.1.w": (3,)})
    assert [family.pattern for family in mixed] == ["h.0.w", "h.1.w"]


def test_toml_of_a_match_keeps_what_is_certain():
    result = match({"a": (2, 3), "b": (2,), "c": (2,)}, {"d": (2, 3), "e": (2,), "f": (2,)})
    assert result.to_toml().count("guess = true") == 2
    assert "# certain: the only ones of their shape\n[[rule]]" in result.to_toml()
    assert [proposal.certain for proposal in result.proposals] == [True, False, False]


LSTM = {"weight_ih_l0": (32, 5), "weight_hh_l0": (32, 8)}


@pytest.mark.parametrize(
    ("before", "after", "doubt"),
    [
        ({"params/conv/kernel": (3, 3, 3, 3)}, {"conv.weight": (3, 3, 3, 3)}, "whether it is turned"),
        ({"dense/kernel": (4, 4)}, {"fc.weight": (4, 4)}, "whether it is turned"),
        (
            {"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_proj.weight": (4, 4)},
            {"h.0.attn.c_attn.weight": (12, 4), "h.0.attn.c_proj.weight": (4, 4)},
            "whether it is turned",
        ),
        ({"W": (1, 32, 5), "R": (1, 32, 8)}, LSTM, "gates"),
        ({"lstm.weight_ih": (32, 5), "lstm.weight_hh": (32, 8)}, LSTM, "gates"),
        ({"cell/kernel": (5, 32), "cell/recurrent_kernel": (8, 32)}, LSTM, "gates"),
        (
            {"layers.0.attention.wq.weight": (8, 6)},
            {"model.layers.0.self_attn.q_proj.weight": (8, 6)},
            "rotary layouts differ",
        ),
        ({"l.0.attention.query_key_value.weight": (24, 8)}, {"h.0.attn.c_attn.weight": (24, 8)}, "order of the fused"),
        ({"cls_token": (1, 1, 8)}, {"mask_token": (1, 1, 8)}, "say different things"),
        ({"a": (2, 3), "b": (5,)}, {"c": (2, 3), "d": (7,)}, "left or missing"),
    ],
)
def test_what_shapes_and_names_leave_open_is_not_certain(before, after, doubt):
    result = match(before, after)
    assert not result.certain
    assert any(doubt in proposal.why for proposal in result.proposals if not proposal.certain)


def test_square_matrices_among_those_that_are_turned_are_turned_under_their_own_names():
    before = {"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_proj.weight": (4, 4)}
    result = match(before, {"h.0.attn.c_attn.weight": (12, 4), "h.0.attn.c_proj.weight": (4, 4)})
    assert reviewed(result) == (Transpose("h.0.attn.c_attn.weight"), Transpose("h.0.attn.c_proj.weight"))


def test_names_that_only_wrappers_or_frameworks_change_are_certain():
    before = {f"net/layers.{i}._orig_mod.fc/kernel": (3, 4) for i in range(3)}
    result = match(before, {f"net.layers.{i}.fc.weight": (4, 3) for i in range(3)})
    assert result.certain
    assert len(result.rules) == 2


def test_a_network_beside_its_average_is_a_guess():
    shapes = {f"{i}.weight": (i + 1,) for i in range(4)}
    before = {f"{net}.{name}": shape for net in ("ema", "model") for name, shape in shapes.items()}
    result = match(before, shapes)
    assert not result.certain
    assert [rule for proposal in result.proposals for rule in proposal.rules] == [Prefix(remove="model.")]
    assert "ema. would do as well" in str(result)
    assert result.left == tuple(f"ema.{name}" for name in shapes)


@pytest.mark.parametrize("is_stacking", [True, False])
def test_layers_whose_names_are_those_of_a_stack_with_the_number_need_rules(is_stacking):
    layers = {f"l.{index}.w": torch.randn(2, 3) for index in range(3)}
    stacked = {"l.w": torch.stack([*layers.values()])}
    source, target = (layers, stacked) if is_stacking else (stacked, layers)
    found = match(source, target)
    assert found.same == 0
    rules = [rule for proposal in found.proposals for rule in proposal.rules]
    converted = fn.checkpoint.apply(rules, source)
    assert converted.keys() == target.keys()
    assert all(torch.equal(converted[name], target[name]) for name in target)


def test_match_leaves_out_none_and_lists_what_has_no_shape():
    assert match({"w": (2,), "b": None}, {"w": (2,)}).certain
    with pytest.raises(TypeError, match=r"(?s)a: int.*b\.c: str.*fn\.tree\.flatten"):
        match({"a": 3, "b.c": "text", "w": (2,)}, {"w": (2,)})
