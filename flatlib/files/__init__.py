"""What is kept: folders, files written whole or not at all, checkpoints, tables, progress."""
