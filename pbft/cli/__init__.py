"""The command line. One module a command, imported when it is used; `main.py` turns errors into one sentence."""
