"""`python -m nearfold`: the command line."""

from nearfold.cli.app import main

main()
