"""`python -m stormfold` is the `stormfold` command."""

from stormfold.cli import main

if __name__ == "__main__":
    main()
