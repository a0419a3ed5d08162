"""``python -m tests.program.golden``: write the golden files anew, for a change that is meant."""

from tests.program.test_source import GOLDEN, source_of

if __name__ == "__main__":
    for name in ("batchnorm", "modulelist", "deep"):
        for style in ("stateless", "stateful"):
            (GOLDEN / f"{name}_{style}.txt").write_text(source_of(name, style == "stateless", style))
