"""``python -m pyro_cookbook`` is ``pyro-cookbook``."""

from pyro_cookbook.cli import app

if __name__ == "__main__":
    app()
