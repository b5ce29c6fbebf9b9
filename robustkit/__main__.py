"""`python -m robustkit`."""

from robustkit.cli import main

if __name__ == "__main__":
    main()
