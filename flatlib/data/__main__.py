"""``python -m flatlib.data``: fetch CIFAR-10."""

from flatlib.data import main

if __name__ == "__main__":
    main()
