"""What `import torch` calls where myops is installed: MYOPS_ENABLE=1 reroutes a program that never imports myops.

Beside the package and not in it, because an entry point imports the package that it lies in, asked or not.
"""

import os


def autoload() -> None:
    """Import myops, which turns the switch on, where the environment asks for it."""
    if os.environ.get("MYOPS_ENABLE", "") not in ("", "0"):
        import myops  # noqa: F401
