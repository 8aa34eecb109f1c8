"""``python -m flatlib.runs``: the command line of ``batch``."""

from flatlib.runs.batch import main

if __name__ == "__main__":
    main()
