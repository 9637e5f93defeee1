"""``python -m celldetr`` is the command ``celldetr``; ``torchrun`` needs a module to run."""

from celldetr.cli import main

if __name__ == "__main__":
    main()
