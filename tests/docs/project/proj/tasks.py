"""Tasks that were there before."""
