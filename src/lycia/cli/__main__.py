"""`python -m lycia.cli` is `lycia`."""

from lycia.cli.main import main

if __name__ == "__main__":
    main()
