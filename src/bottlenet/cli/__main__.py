"""`python -m bottlenet.cli`."""

from bottlenet.cli import main

if __name__ == "__main__":
    main()
