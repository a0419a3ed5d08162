"""Write the golden files anew: ``python -m tests.golden``; then look at the difference before you keep it."""

from tests.golden import FILE, described, dumped, transforms

FILE.write_text(dumped(described()))
transforms.FILE.write_text(transforms.rendered())
