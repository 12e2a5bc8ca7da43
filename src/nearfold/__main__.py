"""`python -m nearfold`: the command line."""

from nearfold.cli.app import main

if __name__ == "__main__":
    main()
