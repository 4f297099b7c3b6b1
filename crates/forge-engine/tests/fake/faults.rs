//! What goes wrong goes wrong as it was said, and the same again with the same seed.
