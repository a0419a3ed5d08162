"""Checkpoints: somebody else's file, with proof.

The weights are out there, but under other names, fused, or transposed. The usual cure is a loop of replace() and
strict=False, which is silent about what it forgot. Rules say the same as data: they are proved before a tensor is read,
they run backwards, and a certificate lets anybody check the result later.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import Rename, RuleError, Split, Transpose


def their_file(path: Path) -> dict[str, torch.Tensor]:
    """A file as a JAX program may write it: kernels are (in, out), and q, k, v lie in one."""
    sizes = {"attn.qkv.kernel": (8, 24), "attn.qkv.bias": (24,), "out.kernel": (8, 4), "out.bias": (4,)}
    theirs = {name: fn.random.normal(fn.random.key(at), size) for at, (name, size) in enumerate(sizes.items())}
    checkpoint.save(path, theirs)
    return theirs


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs.npz", Path(folder) / "ours.safetensors"
        given = their_file(theirs)

        # Stateful: rename, transpose, load what fits. It runs, and the attention keeps its random first values.
        torch.manual_seed(0)
        module = nn.ModuleDict(
            {"attn": nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q", "k", "v")}), "out": nn.Linear(8, 4)}
        )
        untouched = module["attn"]["q"].weight.clone()
        renamed = {name.replace("kernel", "weight"): tensor.t() for name, tensor in given.items() if "out" in name}
        module.load_state_dict(renamed, strict=False)
        assert torch.equal(module["attn"]["q"].weight, untouched)
        print("nn: loaded without an error, and attn is as random as before\n")

        # Stateless: what is in the file? Names and shapes are known before a tensor is read.
        held = checkpoint.load(theirs)
        for name, spec in held.specs.items():
            print(f"    {name:<16} {spec.shape}")

        # Rules, applied one after the other. {i} would stand for one key of a name, {layer**} for one or more.
        rules = [
            Rename("{layer**}.kernel", "{layer**}.weight"),
            Transpose("{layer**}.weight"),
            Split("attn.qkv.weight", ["attn.q.weight", "attn.k.weight", "attn.v.weight"], [8, 8, 8]),
            Split("attn.qkv.bias", ["attn.q.bias", "attn.k.bias", "attn.v.bias"], [8, 8, 8]),
        ]
        certificate = Path(folder) / "certificate.json"
        done = checkpoint.convert(theirs, ours, rules, certificate=certificate)
        proof = done.plan.proof
        assert proof.bijection
        print(f"\nproved: each of {proof.elements} numbers goes to one place and comes back")

        # The net takes the tree only if every path and shape fits.
        @fn.compose(attn=fn.ModuleDict({name: fn.Linear(8, 8) for name in ("q", "k", "v")}), out=fn.Linear(8, 4))
        def model(p, x):
            return p.out(torch.softmax(p.attn["q"](x) @ p.attn["k"](x).T, -1) @ p.attn["v"](x))

        params, _ = fn.from_state_dict(model, checkpoint.load(ours))
        assert torch.equal(params["attn"]["k"]["weight"], given["attn.qkv.kernel"][:, 8:16].T)
        assert model(params, torch.ones(2, 8)).shape == (2, 4)

        # Backwards, with the same rules: every bit of the first file.
        again = Path(folder) / "again.npz"
        checkpoint.convert(ours, again, rules, inverse=True)
        assert not list(checkpoint.differences(held, checkpoint.load(again)))
        print("and back: not one bit differs")

        # Later, elsewhere: the certificate says whether these two files are still what they were.
        assert checkpoint.verify(certificate) == []
        changed = {**checkpoint.load(ours), "out.bias": torch.zeros(4)}
        checkpoint.save(ours, changed)
        print("verify after a change:", *checkpoint.verify(certificate))

        # Never silent: a rule that means nothing, names that meet, tensors that get lost; and nothing is written.
        try:
            checkpoint.convert(theirs, ours, [Rename("attention.{rest**}", "attn.{rest**}")])
        except RuleError as error:
            print("refused:", error)
        else:
            raise AssertionError("a rule that means nothing is an error")


# The same from a shell, with the rules in a TOML file (checkpoint.to_toml writes one):
#     funcnet inspect theirs.npz
#     funcnet convert theirs.npz ours.safetensors --rules rules.toml --certificate certificate.json
#     funcnet diff theirs.npz again.npz
#     funcnet verify certificate.json

if __name__ == "__main__":
    main()
