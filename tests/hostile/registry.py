"""What the hostile files share: the table of all of them, and how an archive is written."""

from __future__ import annotations

import os
import zipfile

CASES = {}
"""Name of a hostile file -> a function that writes it below a folder and returns its path."""

MARK = "FUNCNET_HOSTILE_MARK"
"""The environment variable with the path of the file that code in a hostile file would write if it ran."""

HUGE = 2**60


def case(function):
    CASES[function.__name__] = function
    return function


class CallsOnUnpickling:
    """An object that writes a file when it is unpickled without checks."""

    def __reduce__(self):
        return os.system, (f"touch ${MARK}",)


def write_archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path
