"""Write the golden file anew: ``python -m tests.golden``; then look at the difference before you keep it."""

from tests.golden import FILE, described, dumped

FILE.write_text(dumped(described()))
