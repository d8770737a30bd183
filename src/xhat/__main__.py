"""``python -m xhat`` is the command ``xhat``."""

from xhat.cli import main

if __name__ == "__main__":
    main()
