"""Attacks on inputs: ``attack(f, x, y, g) -> x_adv`` for any function f from images to logits."""
