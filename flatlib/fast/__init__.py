"""Speed, behind one seam: ``forward`` gives a network as a function, made fast; the rest is how."""
